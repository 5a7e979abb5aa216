//! The program `cmd`: see [`cmd::cli`].

fn main() -> std::process::ExitCode {
    cmd::cli::main(None)
}
