//! `cmd-train ARGS` is `cmd train ARGS`.

fn main() -> std::process::ExitCode {
    cmd::cli::main(Some("train"))
}
