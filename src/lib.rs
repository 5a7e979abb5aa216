//! Speech-image retrieval with cross-modal denoising (CMD).

pub mod config;
pub mod data;
pub mod draw;
pub mod encoders;
pub mod eval;
pub mod model;
pub mod train;
/// cli
pub mod cli {
    /// main
    pub fn main(_: Option<&str>) -> std::process::ExitCode {
        println!("{}", tch::Cuda::is_available());
        std::process::ExitCode::SUCCESS
    }
}
