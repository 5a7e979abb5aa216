//! The speech-image contrastive loss (Eq. 3-5) with several positives: each of the n rows that show the same image has the
//! ground-truth probability 1/n (Section 3.1).

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What other rows with the same image are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameImage {
    /// Positives, 1/n each (the paper; ALBEF's form).
    #[default]
    Positives,
    /// Left out of the denominator; the row's own pair is the only positive (SpeechCLIP's form).
    Masked,
}

/// Ground truth y^s2i and y^i2s of a batch; the matrix is symmetric, so one serves both directions.
#[derive(Debug)]
pub struct Targets {
    /// [B, B], rows sum to 1.
    probabilities: Tensor,
    /// [B, B], true where a pair takes no part.
    excluded: Option<Tensor>,
}

impl Targets {
    /// Targets of rows that show the images `image_ids`, i64 `[B]`.
    #[must_use]
    pub fn new(image_ids: &Tensor, same_image: SameImage) -> Self {
        let same = image_ids.unsqueeze(1).eq_tensor(&image_ids.unsqueeze(0));
        let own = Tensor::eye(image_ids.size()[0], (Kind::Float, image_ids.device()));
        match same_image {
            SameImage::Positives => {
                let same = same.to_kind(Kind::Float);
                let positives = same.sum_dim_intlist([1i64].as_slice(), true, None);
                Self { probabilities: same / positives, excluded: None }
            }
            SameImage::Masked => {
                let excluded = same.logical_and(&own.eq(0));
                Self { probabilities: own, excluded: Some(excluded) }
            }
        }
    }

    /// H(y, p), the mean over the rows of `logits` [B, B], with p the softmax over them and `further` [B, M], whose columns are all wrong. A
    /// teacher takes part in y.
    fn cross_entropy(&self, logits: &Tensor, further: Option<&Tensor>, teacher: Option<&TeacherLogits>) -> Tensor {
        if let Some(teacher) = teacher {
            return self.distilled(logits, further, teacher);
        }
        let log_softmax = |logits: &Tensor| match further {
            Some(further) => {
                let all = Tensor::cat(&[logits, further], 1).log_softmax(-1, Kind::Float);
                all.narrow(1, 0, logits.size()[1])
            }
            None => logits.log_softmax(-1, Kind::Float),
        };
        let log_p = match &self.excluded {
            // An excluded pair has p = 0 and y = 0; 0 · log 0 counts as 0.
            Some(excluded) => log_softmax(&logits.masked_fill(excluded, f64::NEG_INFINITY)).masked_fill(excluded, 0.0),
            None => log_softmax(logits),
        };
        -(log_p * &self.probabilities).sum_dim_intlist([-1i64].as_slice(), false, None).mean(Kind::Float)
    }

    /// H(y', p) with y' = (1 - a) y + a p_m, p_m the teacher's softmax over the same columns.
    fn distilled(&self, logits: &Tensor, further: Option<&Tensor>, teacher: &TeacherLogits) -> Tensor {
        let columns = |logits: &Tensor, further: Option<&Tensor>| {
            let own = match &self.excluded {
                Some(excluded) => logits.masked_fill(excluded, f64::NEG_INFINITY),
                None => logits.shallow_clone(),
            };
            further.map_or_else(|| own.shallow_clone(), |further| Tensor::cat(&[&own, further], 1))
        };
        let y = tch::no_grad(|| {
            let soft = columns(&teacher.own, teacher.further.as_ref()).softmax(-1, Kind::Float);
            let wrong = soft.size()[1] - logits.size()[1];
            self.probabilities.constant_pad_nd([0, wrong]) * (1.0 - teacher.weight) + soft * teacher.weight
        });
        // What takes no part has p = 0 and y' = 0; 0 · log 0 counts as 0.
        let log_p = columns(logits, further).log_softmax(-1, Kind::Float).clamp_min(f64::from(f32::MIN));
        -(log_p * y).sum_dim_intlist([-1i64].as_slice(), false, None).mean(Kind::Float)
    }

    /// Eq. 5: ½ [H(y^s2i, p^s2i) + H(y^i2s, p^i2s)] for `logits` [B speech, B images] already divided by tau.
    pub fn loss(&self, logits: &Tensor) -> Tensor {
        self.loss_beside(logits, None, None)
    }

    /// As [`Self::loss`]; the speech of the batch is told from `further` images too, by their logits [B, M], and a teacher takes part in what is
    /// right.
    pub fn loss_beside(&self, logits: &Tensor, further: Option<&Tensor>, teacher: Option<&TeacherLogits>) -> Tensor {
        let turned =
            teacher.map(|teacher| TeacherLogits { own: teacher.own.tr(), further: None, weight: teacher.weight });
        let of_speech = self.cross_entropy(logits, further, teacher);
        (of_speech + self.cross_entropy(&logits.tr(), None, turned.as_ref())) * 0.5
    }
}

/// What a teacher says of the pairs of a batch.
#[derive(Debug)]
pub struct TeacherLogits {
    /// [B speech, B images].
    pub own: Tensor,
    /// [B, M], of further images.
    pub further: Option<Tensor>,
    /// a: its part in what is right.
    pub weight: f64,
}
