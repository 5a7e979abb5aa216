//! The model, recalls and Adam against vectors of an independent PyTorch implementation: every file of `tests/golden`, or of
//! the folder that `CMD_GOLDEN_DIR` names. Outputs and losses to 1e-5 absolute, gradients to 1e-4 relative (to the largest
//! entry of the parameter's gradient), in f32 on the CPU.

#![allow(clippy::expect_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cmd::distributed::World;
use cmd::encoders::{TextEncoder, TextEncoderConfig};
use cmd::eval::{Ranks, Recalls, Similarities};
use cmd::model::{
    CascadeConfig, CmdGradient, CmdModel, Embedded, Encoded, FurtherImages, HeadKind, LossOptions, ModelConfig,
    Pairing, ParameterSpec, PatchNoise, QueryNorm, SameImage, SpeechChunk, Teacher, Vocabulary,
};
use cmd::train::step::{self, Step};
use cmd::train::{Adam, AdamSettings};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

struct Golden {
    name: String,
    case: String,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("a golden file");
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a safetensors header");
        let case = metadata.metadata().as_ref().expect("metadata")["case"].clone();
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let shape: Vec<i64> = view.shape().iter().map(|n| *n as i64).collect();
            let kind = match view.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::I64 => Kind::Int64,
                other => panic!("{}: {name} is {other:?}", path.display()),
            };
            (name, Tensor::from_data_size(view.data(), &shape, kind))
        });
        let name = path.file_stem().expect("a file name").to_string_lossy().into_owned();
        Self { name, case, tensors: tensors.collect() }
    }

    fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.name))
    }

    fn close(&self, what: &str, ours: &Tensor, tolerance: f64) {
        let expected = self.get(what);
        assert_eq!(ours.size(), expected.size(), "{}: shape of {what}", self.name);
        let difference = (ours - expected).abs().max().double_value(&[]);
        assert!(difference <= tolerance, "{}: {what} differs by {difference:e}, allowed {tolerance:e}", self.name);
    }
}

fn golden(kind: &str) -> Vec<Golden> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = std::env::var_os("CMD_GOLDEN_DIR").map_or(own, PathBuf::from);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(kind)))
        .collect();
    files.sort();
    if std::env::var_os("CMD_GOLDEN_DIR").is_none() {
        assert!(!files.is_empty(), "no {kind}*.safetensors in {}", folder.display());
    }
    files.iter().map(|path| Golden::read(path)).collect()
}

#[derive(Deserialize)]
struct LossCase {
    alpha: f64,
    heads: i64,
    layers: i64,
    normalize_layers: bool,
    pairing: Pairing,
    query_norm: QueryNorm,
    same_image: SameImage,
    speech_width: i64,
    width: i64,
}

#[test]
fn golden_losses() {
    for golden in golden("losses_") {
        let case: LossCase = serde_json::from_str(&golden.case).expect("a losses case");
        let config = ModelConfig {
            layers: case.layers,
            speech_width: case.speech_width,
            width: case.width,
            heads: case.heads,
            normalize_layers: case.normalize_layers,
            fusion: Some(case.query_norm),
            own_temperature: false,
            head: HeadKind::Parallel,
        };
        let mut model = CmdModel::new(config, 0, Device::Cpu);
        let names: Vec<String> = model.parameters().iter().map(|(spec, _)| spec.name.clone()).collect();
        let given = golden.tensors.keys().filter(|name| name.starts_with("param.")).count();
        assert_eq!(given, names.len(), "{}: the sets of parameters differ", golden.name);
        for name in &names {
            model.parameters_mut().set(name, golden.get(&format!("param.{name}")));
        }
        let (hidden, frames) = (golden.get("in.hidden"), golden.get("in.frames"));
        let rows = |count: i64| Tensor::arange(count, (Kind::Int64, Device::Cpu));
        let batch = hidden.size()[1];
        // In one chunk, and in two that hold the rows in another order.
        let backwards = rows(batch).flip([0]);
        let chunk = |rows: Tensor| SpeechChunk {
            hidden: hidden.index_select(1, &rows),
            frames: frames.index_select(0, &rows),
            rows,
        };
        let split = batch.div_euclid(3).max(1).min(batch - 1);
        let parts = [backwards.narrow(0, 0, split), backwards.narrow(0, split, batch - split)].map(chunk);
        for (speech, speech_place) in [(vec![chunk(rows(batch))], rows(batch)), (parts.into(), backwards)] {
            let encoded = Encoded {
                speech,
                speech_place,
                text: None,
                image_cls: golden.get("in.image_cls").shallow_clone(),
                patches: golden.get("in.patches").shallow_clone(),
            };
            golden_gradient(&golden, &case, &model, &encoded);
        }
    }
}

fn options(alpha: f64, pairing: Pairing, same_image: SameImage) -> LossOptions {
    LossOptions { alpha, pairing, same_image, gradient: CmdGradient::Both }
}

fn golden_gradient(golden: &Golden, case: &LossCase, model: &CmdModel, encoded: &Encoded) {
    let noise = PatchNoise::from_donors(
        golden.get("in.noise_mask"),
        golden.get("in.donor_image"),
        golden.get("in.donor_patch"),
    );
    let options = options(case.alpha, case.pairing, case.same_image);
    // The road that training takes.
    let world = World::alone();
    let image_ids = golden.get("in.image_ids").shallow_clone();
    let step = Step { image_ids, first_row: 0, noise: Some(noise), dropout: None, further: None, text: None };
    let made = step::gradient(model, None, encoded, &step, options, &world);
    let step::Gradient { losses, flat, .. } = made.expect("one process loses nobody");
    let cmd = losses.cmd.as_ref().expect("a denoising branch");
    golden.close("out.speech_cls", &losses.speech_cls, 1e-5);
    golden.close("out.image_cls", &losses.image_cls, 1e-5);
    golden.close("out.denoised", &cmd.denoised, 1e-5);
    golden.close("out.attention", &cmd.attention, 1e-5);
    golden.close("out.loss_sic", &losses.sic, 1e-5);
    golden.close("out.loss_cmd", &cmd.loss, 1e-5);
    golden.close("out.loss", &losses.total, 1e-5);

    for (name, gradient) in model.parameters().split(&flat) {
        let what = format!("grad.{name}");
        let scale = golden.get(&what).abs().max().double_value(&[]);
        golden.close(&what, &gradient, 1e-4 * scale.max(1e-4));
    }
}

#[derive(Deserialize)]
struct CascadeCase {
    heads: i64,
    keywords: i64,
    feed_forward: bool,
    temperature: f64,
    alpha: f64,
    same_image: SameImage,
}

/// Of `tests/golden/make_cascade.py`.
#[test]
fn golden_cascades() {
    let path = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text.pt"));
    let config = TextEncoderConfig { path, ..TextEncoderConfig::default() };
    let text = TextEncoder::load(&config, Device::Cpu).expect("a text encoder");
    for golden in golden("cascade_") {
        let case: CascadeCase = serde_json::from_str(&golden.case).expect("a cascade case");
        let (hidden, frames, tokens) = (golden.get("in.hidden"), golden.get("in.frames"), golden.get("in.tokens"));
        let vocabulary = text.vocabulary();
        let ids: Vec<i64> = Vec::try_from(tokens).expect("ids");
        let place = |id: &i64| vocabulary.ids.iter().position(|known| known == id).expect("a known token") as i64;
        let places: Vec<i64> = ids.iter().map(place).collect();
        let config = ModelConfig {
            layers: hidden.size()[0],
            speech_width: hidden.size()[3],
            width: golden.get("in.image_cls").size()[1],
            heads: case.heads,
            normalize_layers: true,
            fusion: (case.alpha != 0.0).then_some(QueryNorm::LayerNorm),
            own_temperature: false,
            head: HeadKind::Cascaded(CascadeConfig {
                keywords: case.keywords,
                token_width: text.spec().token_width,
                vocabulary: ids.len() as i64,
                feed_forward: case.feed_forward,
                temperature: case.temperature,
            }),
        };
        let mut model = CmdModel::new(config, 0, Device::Cpu);
        let vectors = vocabulary.vectors.index_select(0, &Tensor::from_slice(&places));
        // Each dimension of each keyword starts at the statistics of that dimension.
        let [deviation, mean] =
            [vectors.std_dim([0i64].as_slice(), true, true), vectors.mean_dim([0i64].as_slice(), true, None)];
        model.start_keywords(&Vocabulary { ids, vectors });
        for (what, start) in [("weight", deviation), ("bias", mean)] {
            let values = model.parameters().get(&format!("speech.keywords.norm.{what}"));
            assert!((values - start).abs().max().double_value(&[]) < 1e-6, "{}: {what}", golden.name);
        }
        text.connect(&mut model).expect("the text encoder of these tokens");
        let names: Vec<String> = model.parameters().iter().map(|(spec, _)| spec.name.clone()).collect();
        let given = golden.tensors.keys().filter(|name| name.starts_with("param.")).count();
        assert_eq!(given, names.len(), "{}: the sets of parameters differ", golden.name);
        for name in &names {
            model.parameters_mut().set(name, golden.get(&format!("param.{name}")));
        }

        let rows = Tensor::arange(hidden.size()[1], (Kind::Int64, Device::Cpu));
        let chunk = |rows: Tensor| {
            let [hidden, frames] = [hidden.index_select(1, &rows), frames.index_select(0, &rows)];
            SpeechChunk { hidden, frames, rows }
        };
        let parts = [2, hidden.size()[1] - 2];
        let encoded = Encoded {
            text: None,
            speech: rows.split_with_sizes(parts, 0).into_iter().map(chunk).collect(),
            speech_place: rows,
            image_cls: golden.get("in.image_cls").shallow_clone(),
            patches: golden.get("in.patches").shallow_clone(),
        };
        // Clean patches: each stands in its own place.
        let (batch, patches) = (encoded.patches.size()[0], encoded.patches.size()[1]);
        let own = Tensor::arange(batch * patches, (Kind::Int64, Device::Cpu));
        let noise = (case.alpha != 0.0).then(|| PatchNoise::new(own));
        let image_ids = golden.get("in.image_ids").shallow_clone();
        let step = Step { image_ids, first_row: 0, noise, dropout: None, further: None, text: None };
        let options = options(case.alpha, Pairing::Paired, case.same_image);
        let made = step::gradient(&model, None, &encoded, &step, options, &World::alone());
        let step::Gradient { losses, flat, statistics, .. } = made.expect("one process loses nobody");
        golden.close("out.speech_cls", &losses.speech_cls, 1e-5);
        golden.close("out.loss", &losses.total.view([1]), 1e-5);
        // What the batch normalisation takes out again has a gradient of 0, but for rounding.
        let largest = |what: &str| golden.get(what).abs().max().double_value(&[]);
        let least = 0.1 * largest("grad.speech.proj.weight");
        for (name, gradient) in model.parameters().split(&flat) {
            let what = format!("grad.{name}");
            golden.close(&what, &gradient, 1e-4 * largest(&what).max(least));
        }

        let cascade = model.speech().cascade().expect("a cascaded head");
        cascade.take_in(&statistics.expect("a batch"));
        let buffers: HashMap<&str, &Tensor> = model.buffers().into_iter().collect();
        golden.close("out.running_mean", buffers["speech.keywords.norm.running_mean"], 1e-6);
        golden.close("out.running_var", buffers["speech.keywords.norm.running_var"], 1e-6);
        golden.close("out.evaluated", &model.speech().forward(hidden, frames), 1e-5);
        let (keywords, attention) = model.speech().keywords(hidden, frames).expect("keywords");
        golden.close("out.evaluated_tokens", &keywords.ids, 0.0);
        assert_eq!(attention.size(), [batch, case.keywords, hidden.size()[2]]);
    }
}

#[derive(Deserialize)]
struct BankCase {
    same_image: SameImage,
    /// The teacher's.
    part: f64,
}

/// Of `tests/golden/make_bank.py`.
#[test]
fn golden_bank() {
    for golden in golden("bank_") {
        let case: BankCase = serde_json::from_str(&golden.case).expect("a bank case");
        let [speech, stored] =
            ["in.speech", "in.log_inverse_tau"].map(|name| golden.get(name).copy().set_requires_grad(true));
        let config = ModelConfig {
            layers: 2,
            speech_width: 4,
            width: speech.size()[1],
            heads: 1,
            normalize_layers: true,
            fusion: None,
            own_temperature: false,
            head: HeadKind::Parallel,
        };
        let mut model = CmdModel::new(config, 0, Device::Cpu);
        model.parameters_mut().set("log_inv_tau", &stored.detach().squeeze());
        let embedded = Embedded {
            speech_cls: speech.shallow_clone(),
            image_cls: golden.get("in.images").shallow_clone(),
            patches: Tensor::zeros([speech.size()[0], 1, 1], (Kind::Float, Device::Cpu)),
            image_ids: golden.get("in.ids").shallow_clone(),
            teacher: golden
                .tensors
                .get("in.teacher")
                .map(|teacher| Teacher { speech_cls: teacher.shallow_clone(), weight: case.part }),
            text: None,
        };
        let shown = golden.tensors.get("in.shown").map(|shown| shown.to_kind(Kind::Bool));
        let bank = golden.tensors.get("in.bank");
        let further = bank.map(|bank| FurtherImages { cls: bank.shallow_clone(), shown });
        let options = options(0.0, Pairing::Paired, case.same_image);
        let losses = model.losses(&embedded, None, further.as_ref(), options);
        golden.close("out.loss", &losses.sic.view([1]), 1e-5);
        let tau = model.parameters().leaves().last().expect("a temperature").shallow_clone();
        let gradients = Tensor::run_backward(&[losses.total], &[speech, tau], false, false);
        golden.close("grad.speech", &gradients[0], 1e-5);
        golden.close("grad.log_inverse_tau", &gradients[1].view([1]), 1e-5);
    }
}

#[derive(Deserialize)]
struct Direction {
    r1: f64,
    r5: f64,
    r10: f64,
    median_rank: f64,
    mean_rank: f64,
    mrr: f64,
}

#[derive(Deserialize)]
struct RecallCase {
    speech_to_image: Direction,
    image_to_speech: Direction,
}

#[test]
fn golden_recalls() {
    for golden in golden("recall_") {
        let case: RecallCase = serde_json::from_str(&golden.case).expect("a recall case");
        let owners: Vec<i64> = Vec::try_from(golden.get("in.owner")).expect("owners");
        let owners: Vec<usize> = owners.into_iter().map(|owner| owner as usize).collect();
        let scores = Similarities::from_matrix(golden.get("in.sim"));
        let ranks = Ranks::new(&scores, &owners, &World::alone()).expect("finite scores");
        let recalls = Recalls::new(&ranks, &owners).expect("queries");
        for (direction, expected) in
            [(&recalls.speech_to_image, &case.speech_to_image), (&recalls.image_to_speech, &case.image_to_speech)]
        {
            for (what, ours, expected) in [
                ("r1", direction.r1, expected.r1),
                ("r5", direction.r5, expected.r5),
                ("r10", direction.r10, expected.r10),
                ("median_rank", direction.median_rank, expected.median_rank),
                ("mean_rank", direction.mean_rank, expected.mean_rank),
                ("mrr", direction.mrr, expected.mrr),
            ] {
                assert!(
                    (ours - expected).abs() < 1e-5 * expected.max(1.0),
                    "{}: {what} {ours} {expected}",
                    golden.name
                );
            }
        }
    }
}

#[derive(Deserialize)]
struct AdamCase {
    lr: f64,
    weight_decay: f64,
    betas: [f64; 2],
    eps: f64,
}

#[test]
fn golden_adam() {
    for golden in golden("adam") {
        let case: AdamCase = serde_json::from_str(&golden.case).expect("an Adam case");
        let start = golden.get("in.param");
        let spec = ParameterSpec::new("weight", &start.size(), cmd::model::Initial::Constant(0.0));
        let mut parameters = cmd::model::Parameters::new(vec![spec], 0, Device::Cpu);
        parameters.set("weight", start);
        let settings = AdamSettings { weight_decay: case.weight_decay, betas: case.betas, eps: case.eps };
        let mut adam = Adam::new(settings, parameters.flat());
        let (gradients, expected) = (golden.get("in.grads"), golden.get("out.params"));
        for step in 0..gradients.size()[0] {
            let (mut values, mut gradient) = (parameters.flat().shallow_clone(), gradients.get(step).flatten(0, -1));
            adam.update(&mut values, &mut gradient, 1.0, case.lr).expect("an update");
            let difference = (parameters.get("weight") - expected.get(step)).abs().max().double_value(&[]);
            assert!(difference <= 1e-5, "{}: step {step} differs by {difference:e}", golden.name);
        }
    }
}
