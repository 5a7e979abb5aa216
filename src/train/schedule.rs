//! Learning rate (Section 3.1): linear warm-up to the peak, then linear to the last value.

/// Warm-up and decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Learning rate at the end of warm-up.
    pub peak: f64,
    /// Learning rate of the last step.
    pub last: f64,
    /// Steps of warm-up.
    pub warmup_steps: i64,
    /// Steps in all.
    pub steps: i64,
}

impl Schedule {
    /// Learning rate of update `step`, counted from 0.
    #[must_use]
    pub fn at(&self, step: i64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        // The peak is the rate of the last warm-up step, `last` that of the last step of all.
        let way = (step + 1 - self.warmup_steps) as f64 / (self.steps - self.warmup_steps).max(1) as f64;
        self.peak + (self.last - self.peak) * way.min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_schedule() {
        let schedule = Schedule { peak: 1e-4, last: 1e-8, warmup_steps: 4000, steps: 60_000 };
        assert!((schedule.at(0) - 1e-4 / 4000.0).abs() < 1e-18);
        assert!((schedule.at(3999) - 1e-4).abs() < 1e-18);
        assert!((schedule.at(59_999) - 1e-8).abs() < 1e-18);
        assert!((schedule.at(31_999) - (1e-4 + 1e-8) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn no_warm_up_and_a_short_run() {
        let schedule = Schedule { peak: 1.0, last: 0.5, warmup_steps: 0, steps: 2 };
        assert_eq!((schedule.at(0), schedule.at(1)), (0.75, 0.5));
        assert_eq!(Schedule { peak: 1.0, last: 0.5, warmup_steps: 4, steps: 2 }.at(1), 0.5);
    }
}
