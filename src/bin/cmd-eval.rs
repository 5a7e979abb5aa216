//! `cmd-eval ARGS` is `cmd eval ARGS`.

fn main() -> std::process::ExitCode {
    cmd::cli::main(Some("eval"))
}
