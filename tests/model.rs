//! Properties of the model: sizes, padding, order of the batch, gradients, dropout.

#![allow(clippy::expect_used, reason = "a test may panic")]

use cmd::distributed::World;
use std::collections::HashMap;

use cmd::model::{
    CmdGradient, CmdModel, DonorPosition, Dropout, DropoutMask, Embedded, Encoded, HeadKind, LossOptions, Losses,
    ModelConfig, Pairing, PatchNoise, QueryNorm, SameImage, SpeechChunk, TextAnchor,
};
use cmd::train::step::{self, Step};
use tch::{Device, Kind, Tensor};

const PAPER: ModelConfig = ModelConfig {
    layers: 25,
    speech_width: 1024,
    width: 768,
    heads: 8,
    normalize_layers: true,
    fusion: Some(QueryNorm::LayerNorm),
    own_temperature: false,
    head: HeadKind::Parallel,
};
const SMALL: ModelConfig = ModelConfig { layers: 3, speech_width: 16, width: 12, heads: 4, ..PAPER };
const OPTIONS: LossOptions =
    LossOptions { alpha: 0.5, pairing: Pairing::Paired, same_image: SameImage::Positives, gradient: CmdGradient::Both };

/// Frozen features of a batch in one piece.
struct Features {
    /// [L, B, T, D]
    hidden: Tensor,
    /// `[B]`
    frames: Tensor,
    /// [B, E]
    image_cls: Tensor,
    /// [B, N, E]
    patches: Tensor,
    image_ids: Vec<i64>,
}

fn features(batch: i64, frames: i64) -> Features {
    tch::manual_seed(5);
    let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let counts: Vec<i64> = (0..batch).map(|row| 1 + (row * 5 + 3) % frames).collect();
    Features {
        hidden: normal(&[3, batch, frames, 16]),
        frames: Tensor::from_slice(&counts),
        image_cls: normal(&[batch, 12]),
        patches: normal(&[batch, 9, 12]),
        image_ids: (0..batch).map(|row| row / 2).collect(),
    }
}

impl Features {
    fn noise(&self) -> PatchNoise {
        let patches = self.patches.size()[1] as usize;
        let drawn = PatchNoise::draw(&self.image_ids, patches, 0.3, DonorPosition::Random, 1, 1);
        PatchNoise::new(Tensor::from_slice(&drawn.expect("several images")))
    }

    /// The gradient of a step, by the road that training takes.
    fn step(&self, model: &CmdModel, noise: Option<PatchNoise>, options: LossOptions) -> step::Gradient {
        let rows = Tensor::arange(self.hidden.size()[1], (Kind::Int64, Device::Cpu));
        let chunk = SpeechChunk {
            hidden: self.hidden.shallow_clone(),
            frames: self.frames.shallow_clone(),
            rows: rows.shallow_clone(),
        };
        let encoded = Encoded {
            text: None,
            speech: vec![chunk],
            speech_place: rows,
            image_cls: self.image_cls.shallow_clone(),
            patches: self.patches.shallow_clone(),
        };
        let step = Step {
            image_ids: Tensor::from_slice(&self.image_ids),
            first_row: 0,
            noise,
            dropout: None,
            further: None,
            text: None,
        };
        step::gradient(model, None, &encoded, &step, options, &World::alone()).expect("one process loses nobody")
    }
}

/// The losses of a batch, without dropout.
fn losses(model: &CmdModel, features: &Features, noise: Option<&PatchNoise>, options: LossOptions) -> Losses {
    let embedded = Embedded {
        speech_cls: model.speech().forward(&features.hidden, &features.frames),
        image_cls: features.image_cls.shallow_clone(),
        patches: features.patches.shallow_clone(),
        image_ids: Tensor::from_slice(&features.image_ids),
        teacher: None,
        text: None,
    };
    model.losses(&embedded, noise, None, options)
}

/// S_cls of rows from `dropout.first_row` on, with that dropout.
fn dropped(model: &CmdModel, hidden: &Tensor, frames: &Tensor, dropout: Dropout) -> Tensor {
    let head = model.speech();
    let (rows, longest) = (hidden.size()[1], hidden.size()[2]);
    let mask = DropoutMask::new(head.draw_dropout(dropout, rows as u64, longest), dropout);
    let rows = Tensor::arange(rows, (Kind::Int64, Device::Cpu));
    head.embed(&head.layer_sum(hidden).sum, frames, Some((&mask, &rows)))
}

fn same(a: &Tensor, b: &Tensor, tolerance: f64) -> bool {
    (a - b).abs().max().double_value(&[]) <= tolerance
}

#[test]
fn the_papers_parameter_counts() {
    let count = |config: &ModelConfig| config.parameters().iter().map(|spec| spec.count()).sum::<i64>();
    assert_eq!(count(&PAPER), 13_980_186);
    assert_eq!(count(&ModelConfig { fusion: Some(QueryNorm::None), ..PAPER }), 13_978_650);
    assert_eq!(count(&ModelConfig { fusion: None, ..PAPER }), 13_386_522);
}

#[test]
fn padding_changes_nothing() {
    let model = CmdModel::new(SMALL, 1, Device::Cpu);
    let Features { hidden, frames, .. } = features(4, 7);
    let garbage = Tensor::full([3, 4, 5, 16], 1e4, (Kind::Float, Device::Cpu));
    let padded = Tensor::cat(&[&hidden, &garbage], 2);
    let dropout = Dropout { rate: 0.3, seed: 1, step: 2, first_row: 0 };
    let forward = |hidden: &Tensor| model.speech().forward(hidden, &frames);
    assert!(same(&forward(&hidden), &forward(&padded), 1e-6));
    let dropped = |hidden: &Tensor| dropped(&model, hidden, &frames, dropout);
    assert!(same(&dropped(&hidden), &dropped(&padded), 1e-6));
}

/// Captions that are embedded as the images are teach what the images teach.
#[test]
fn a_text_anchor_counts_with_its_weight() {
    let model = CmdModel::new(ModelConfig { fusion: None, ..SMALL }, 8, Device::Cpu);
    let features = features(6, 5);
    let plain = losses(&model, &features, None, LossOptions { alpha: 0.0, ..OPTIONS });
    for weight in [0.0, 0.5, 2.0] {
        let embedded = Embedded {
            speech_cls: plain.speech_cls.shallow_clone(),
            image_cls: features.image_cls.shallow_clone(),
            patches: features.patches.shallow_clone(),
            image_ids: Tensor::from_slice(&features.image_ids),
            teacher: None,
            text: Some(TextAnchor {
                cls: plain.image_cls.shallow_clone(),
                ids: Tensor::from_slice(&features.image_ids),
                weight,
            }),
        };
        let anchored = model.losses(&embedded, None, None, LossOptions { alpha: 0.0, ..OPTIONS });
        assert!(same(&anchored.text.expect("a loss"), &plain.sic, 1e-6) && same(&anchored.sic, &plain.sic, 1e-6));
        assert!(same(&anchored.total, &(&plain.sic * (1.0 + weight)), 1e-5));
    }
}

#[test]
fn the_cls_row_is_that_of_the_whole_layer() {
    let model = CmdModel::new(SMALL, 2, Device::Cpu);
    let Features { hidden, frames, .. } = features(4, 7);
    let whole = model.speech().forward_frames(&hidden, &frames).expect("frames");
    assert_eq!(whole.size(), [4, 8, 12]);
    assert!(same(&whole.select(1, 0), &model.speech().forward(&hidden, &frames), 1e-6));
}

#[test]
fn a_shuffled_batch_has_the_same_loss() {
    let model = CmdModel::new(SMALL, 3, Device::Cpu);
    let straight = features(6, 7);
    let order = Tensor::from_slice(&[3i64, 0, 5, 2, 1, 4]);
    let rows = |tensor: &Tensor, dim| tensor.index_select(dim, &order);
    let shuffled = Features {
        hidden: rows(&straight.hidden, 1),
        frames: rows(&straight.frames, 0),
        image_cls: rows(&straight.image_cls, 0),
        patches: rows(&straight.patches, 0),
        image_ids: Vec::try_from(rows(&Tensor::from_slice(&straight.image_ids), 0)).expect("ids"),
    };
    // Noise that moves with its rows: patch 2 of each image comes from the image two rows on.
    let mask = (Tensor::arange(9, (Kind::Int64, Device::Cpu)).eq(2)).to_kind(Kind::Int64).expand([6, 9], false);
    let donors = Tensor::from_slice(&[2i64, 3, 4, 5, 0, 1]).unsqueeze(1).expand([6, 9], false);
    let place = Tensor::from_slice(&[1i64, 4, 3, 0, 5, 2]);
    let moved = place.index_select(0, &rows(&donors, 0).flatten(0, -1)).view([6, 9]);
    let patch = Tensor::zeros([6, 9], (Kind::Int64, Device::Cpu));
    for (pairing, same_image) in [(Pairing::Paired, SameImage::Positives), (Pairing::All, SameImage::Masked)] {
        let options = LossOptions { pairing, same_image, ..OPTIONS };
        let loss = |features: &Features, donors: &Tensor| {
            let noise = PatchNoise::from_donors(&mask, donors, &patch);
            losses(&model, features, Some(&noise), options).total.double_value(&[])
        };
        assert!((loss(&straight, &donors) - loss(&shuffled, &moved)).abs() < 1e-5);
    }
}

#[test]
fn gradients_reach_every_parameter_and_no_feature() {
    let model = CmdModel::new(SMALL, 4, Device::Cpu);
    let features = features(6, 7);
    let made = features.step(&model, Some(features.noise()), OPTIONS);
    for (name, gradient) in model.parameters().split(&made.flat) {
        assert!(gradient.abs().max().double_value(&[]) > 0.0, "{name}");
    }
    for frozen in [&features.hidden, &features.image_cls, &features.patches] {
        assert!(!frozen.requires_grad() && !frozen.grad().defined());
    }
}

/// Gradients by the names of their parameters.
fn gradients(model: &CmdModel, features: &Features, options: LossOptions) -> HashMap<String, Tensor> {
    let made = features.step(model, Some(features.noise()), options);
    model.parameters().split(&made.flat).into_iter().collect()
}

#[test]
fn l_cmd_teaches_the_head_by_its_two_uses_of_s_cls() {
    let model = CmdModel::new(SMALL, 4, Device::Cpu);
    let features = features(6, 7);
    for pairing in [Pairing::Paired, Pairing::All] {
        let by = |gradient| gradients(&model, &features, LossOptions { pairing, gradient, ..OPTIONS });
        let [both, similarity, query, neither] =
            [CmdGradient::Both, CmdGradient::Similarity, CmdGradient::Query, CmdGradient::Neither].map(by);
        let alone = gradients(&model, &features, LossOptions { alpha: 0.0, ..OPTIONS });
        for name in both.keys().filter(|name| name.starts_with("speech.")) {
            // Each use adds its own part to what L_sic asks for.
            assert!(same(&neither[name], &alone[name], 1e-6), "{name}");
            assert!(same(&(&both[name] + &neither[name]), &(&similarity[name] + &query[name]), 1e-5), "{name}");
            assert!(!same(&similarity[name], &query[name], 1e-6), "{name}");
        }
        for name in both.keys().filter(|name| name.starts_with("fusion.")) {
            assert!(
                [&similarity, &query, &neither].iter().all(|other| same(&both[name], &other[name], 1e-6)),
                "{name}"
            );
        }
    }
}

#[test]
fn a_temperature_of_its_own_takes_l_cmds_part_of_the_gradient() {
    let own = ModelConfig { own_temperature: true, ..SMALL };
    let count = |config: &ModelConfig| config.parameters().iter().map(|spec| spec.count()).sum::<i64>();
    assert_eq!(count(&own), count(&SMALL) + 1);
    assert_eq!(count(&ModelConfig { fusion: None, ..own }), count(&ModelConfig { fusion: None, ..SMALL }));
    let features = features(6, 7);
    let shared = gradients(&CmdModel::new(SMALL, 4, Device::Cpu), &features, OPTIONS);
    let own = gradients(&CmdModel::new(own, 4, Device::Cpu), &features, OPTIONS);
    let parts = &own["log_inv_tau"] + &own["cmd_log_inv_tau"];
    assert!(same(&shared["log_inv_tau"], &parts, 1e-6) && !same(&own["log_inv_tau"], &parts, 1e-4));
    assert!(shared.iter().all(|(name, gradient)| name == "log_inv_tau" || same(gradient, &own[name], 1e-6)));
}

#[test]
fn a_fusion_encoder_from_zero_is_the_attended_patches() {
    let mut model = CmdModel::new(ModelConfig { fusion: Some(QueryNorm::None), ..SMALL }, 4, Device::Cpu);
    model.start_fusion_at_zero();
    let features = features(3, 7);
    let speech = model.speech().forward(&features.hidden, &features.frames);
    let fused = model.fusion().expect("a fusion encoder").paired(&speech, &features.patches);
    let attended = fused.attention.unsqueeze(1).matmul(&features.patches).squeeze_dim(1);
    let normal = attended.layer_norm([12], None::<Tensor>, None::<Tensor>, 1e-5, false);
    let expected = &normal / normal.norm_scalaropt_dim(2, [1i64].as_slice(), true);
    assert!(same(&fused.denoised, &expected, 1e-5));
}

#[test]
fn alpha_0_is_the_contrastive_loss_alone() {
    let model = CmdModel::new(ModelConfig { fusion: None, ..SMALL }, 4, Device::Cpu);
    let features = features(6, 7);
    let losses = losses(&model, &features, None, LossOptions { alpha: 0.0, ..OPTIONS });
    assert!(losses.cmd.is_none());
    assert_eq!(losses.total.double_value(&[]), losses.sic.double_value(&[]));
}

#[test]
fn dropout_masks_belong_to_rows_of_the_global_batch() {
    let model = CmdModel::new(SMALL, 6, Device::Cpu);
    let Features { hidden, frames, .. } = features(6, 7);
    let dropout = Dropout { rate: 0.2, seed: 9, step: 3, first_row: 0 };
    let whole = dropped(&model, &hidden, &frames, dropout);
    let (part, part_frames) = (hidden.narrow(1, 2, 4), frames.narrow(0, 2, 4));
    let rest = dropped(&model, &part, &part_frames, Dropout { first_row: 2, ..dropout });
    assert!(same(&whole.narrow(0, 2, 4), &rest, 1e-6));
    let next = dropped(&model, &hidden, &frames, Dropout { step: 4, ..dropout });
    assert!(!same(&whole, &next, 1e-3));
}

#[test]
fn the_papers_batch_needs_no_tensor_over_pairs_and_patches() {
    // B x B x N x E alone would be 12.9 GB.
    let model = CmdModel::new(ModelConfig { speech_width: 64, ..PAPER }, 7, Device::Cpu);
    let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let features = Features {
        hidden: normal(&[25, 128, 4, 64]),
        frames: Tensor::full([128], 4, (Kind::Int64, Device::Cpu)),
        image_cls: normal(&[128, 768]),
        patches: normal(&[128, 256, 768]),
        image_ids: (0..128).collect(),
    };
    for pairing in [Pairing::Paired, Pairing::All] {
        let made = features.step(&model, Some(features.noise()), LossOptions { pairing, ..OPTIONS });
        assert!(made.losses.total.double_value(&[]).is_finite());
    }
    let peak = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak").trim().replace(" kB", "");
    assert!(peak.parse::<u64>().expect("a number") < 6_000_000, "peak {peak} kB");
}
