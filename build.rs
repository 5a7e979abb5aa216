//! Links the program so that it starts without `LD_LIBRARY_PATH`, on CPU and, where libtorch can use it, on CUDA.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    name_version();
    // Set by torch-sys (`links = "tch"`): the folder of libtorch's shared libraries.
    let Ok(libraries) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        println!("cargo:warning=torch-sys did not say where libtorch is; the program may need LD_LIBRARY_PATH");
        return;
    };
    // DT_RPATH, which comes before LD_LIBRARY_PATH: another libtorch there must not be taken.
    // Where scripts/install puts one comes first.
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,$ORIGIN/../lib/cmd/torch/lib,-rpath,{libraries}");
    let cuda = Path::new(&libraries).join("libtorch_cuda.so");
    println!("cargo:rerun-if-changed={}", cuda.display());
    let has_cuda = is_loadable(&cuda);
    compile_shim(Path::new(&libraries), has_cuda);
    if has_cuda {
        // The linker drops libraries that no symbol refers to, and CUDA with them (tch-rs#907).
        println!("cargo:rustc-link-search=native={libraries}");
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
        println!("cargo:rustc-link-arg=-ltorch_cuda");
        println!("cargo:rustc-link-arg=-Wl,--as-needed");
    }
}

/// What the program is made of.
const SOURCES: [&str; 4] = ["src", "Cargo.toml", "Cargo.lock", "build.rs"];

/// `CMD_VERSION`: the package's, and where there is a git repository, the commit that was checked out and whether a source has changed since.
fn name_version() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let package = env!("CARGO_PKG_VERSION");
    // A package unpacked inside another repository is none of that's commits.
    let is_own = git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix.is_empty());
    let revision = is_own.then(|| git(&["rev-parse", "--short=10", "HEAD"])).flatten();
    let changed = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat()).is_none_or(|files| !files.is_empty());
    let changed = if changed { ", changed" } else { "" };
    let version = revision.map_or(package.to_owned(), |revision| format!("{package} (git {revision}{changed})"));
    println!("cargo:rustc-env=CMD_VERSION={version}");
    SOURCES.iter().for_each(|path| println!("cargo:rerun-if-changed={path}"));
    // Written anew by every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| is_own && Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
}

/// c10d's C entries; libtorch's headers want those of Gloo, which its package leaves out.
fn compile_shim(libraries: &Path, has_cuda: bool) {
    println!("cargo:rerun-if-changed=src/distributed");
    println!("cargo:rerun-if-changed=src/model/libtorch.cpp");
    let include = libraries.join("../include");
    let mut build = cc::Build::new();
    if has_cuda {
        // Beside torch in site-packages.
        let packages = libraries.join("../../nvidia");
        let (cuda, nccl) = (packages.join("cu13/include"), packages.join("nccl/include"));
        let needed =
            [cuda.join("cuda_runtime.h"), cuda.join("crt/host_defines.h"), cuda.join("nv/target"), nccl.join("nccl.h")];
        match needed.iter().find(|header| !header.exists()) {
            None => {
                build.define("USE_C10D_NCCL", None).flag("-isystem").flag(cuda).flag("-isystem").flag(nccl);
            }
            Some(header) => println!(
                "cargo:warning=no {}: several processes on CUDA need it; pip install nvidia-cuda-crt==13.0.* nvidia-cuda-cccl==13.0.*",
                header.display()
            ),
        }
    }
    build
        .cpp(true)
        .std("c++17")
        .file("src/distributed/shim.cpp")
        .file("src/model/libtorch.cpp")
        .include("src/distributed/gloo_stubs")
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .warnings(false)
        .compile("cmd_c10d");
}

/// Whether every library that `library` needs is there: the wheel holds libtorch_cuda.so also where it is installed for the
/// CPU, without NVIDIA's libraries.
fn is_loadable(library: &Path) -> bool {
    let needed = library.exists().then(|| Command::new("ldd").arg(library).output());
    matches!(needed, Some(Ok(output)) if output.status.success()
        && !String::from_utf8_lossy(&output.stdout).contains("not found"))
}
