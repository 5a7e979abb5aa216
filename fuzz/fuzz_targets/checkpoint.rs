#![no_main]
//! A checkpoint: `state.json` and `model.safetensors`.

mod desk;

use cmd::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;
use tch::Device;

fuzz_target!(|bytes: &[u8]| {
    let [state, model] = desk::parts(bytes);
    let path = desk::put("model.safetensors", model);
    desk::put("state.json", state);
    desk::put("optimizer.safetensors", b"");
    let checkpoint = Checkpoint::open(&path).expect("a file");
    let _ = checkpoint.verify();
    let _ = checkpoint.load_for_inference(Device::Cpu);
    // As a file without a state.
    let _ = std::fs::remove_file(desk::folder().join("state.json"));
    if let Ok(model) = checkpoint.load_for_inference(Device::Cpu) {
        assert!(model.parameters().count() > 0);
    }
});
