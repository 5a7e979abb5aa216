//! The trained part of the system (Section 2 of the paper): speech head, fusion encoder, losses. It works on frozen features
//! in tensors and knows no file, configuration file or command line.
//!
//! Stages of a batch: [`Encoded`] (frozen features), [`Embedded`] (S_cls beside the image side), [`Losses`].
//!
//! Dimension letters, here and in the names of the documentation: B batch, T speech frames, N image patches, L hidden
//! states of the speech encoder, D its width, E the width that speech and image share, H attention heads.
//!
//! | paper | here |
//! | --- | --- |
//! | speech encoder Psi after HuBERT (Section 2.2) | [`SpeechHead`] |
//! | cascaded SpeechCLIP (a row of Table 2) | [`Cascade`] |
//! | fusion encoder Omega, Eq. 1-2 | [`FusionEncoder`] |
//! | noisy features F^I* (Section 2.2) | [`PatchNoise`] |
//! | L_sic, Eq. 3-5 | [`contrastive`] |
//! | L_cmd, Eq. 6, and L, Eq. 7 | [`CmdModel::losses`] |

mod cascade;
mod cmd_model;
pub mod contrastive;
mod dropout;
mod fusion;
mod layers;
mod libtorch;
mod noise;
mod parameters;
mod speech_head;
mod stages;

pub use cascade::{BatchStatistics, Cascade, CascadeConfig, HeadKind, KeywordReader, Keywords, Vocabulary};
pub use cmd_model::{CmdGradient, CmdModel, LossOptions, ModelConfig, Pairing};
pub use contrastive::SameImage;
pub use dropout::{Dropout, DropoutMask};
pub use fusion::{Fused, FusionEncoder, QueryNorm};
pub use libtorch::{AdamUpdate, LibtorchError, allow_tf32, catch_libtorch, libtorch_version, numbers_of, pinned};
pub use noise::{DonorPosition, PatchNoise};
pub use parameters::{Initial, ParameterSpec, Parameters};
pub use speech_head::{LayerSum, SpeechHead};
pub use stages::{Denoising, Embedded, Encoded, FurtherImages, Losses, SpeechChunk, Teacher, TextAnchor};
