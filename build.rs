//! Links the program so that it starts without `LD_LIBRARY_PATH`, on CPU and, where libtorch can use it, on CUDA.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Set by torch-sys (`links = "tch"`): the folder of libtorch's shared libraries.
    let Ok(libraries) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        println!("cargo:warning=torch-sys did not say where libtorch is; the program may need LD_LIBRARY_PATH");
        return;
    };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libraries}");
    let cuda = Path::new(&libraries).join("libtorch_cuda.so");
    println!("cargo:rerun-if-changed={}", cuda.display());
    if is_loadable(&cuda) {
        // The linker drops libraries that no symbol refers to, and CUDA with them (tch-rs#907).
        println!("cargo:rustc-link-search=native={libraries}");
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
        println!("cargo:rustc-link-arg=-ltorch_cuda");
        println!("cargo:rustc-link-arg=-Wl,--as-needed");
    }
}

/// Whether every library that `library` needs is there: the wheel holds libtorch_cuda.so also where it is installed for the
/// CPU, without NVIDIA's libraries.
fn is_loadable(library: &Path) -> bool {
    let needed = library.exists().then(|| Command::new("ldd").arg(library).output());
    matches!(needed, Some(Ok(output)) if output.status.success()
        && !String::from_utf8_lossy(&output.stdout).contains("not found"))
}
