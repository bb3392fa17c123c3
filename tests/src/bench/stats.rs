//! Medians and percentiles. Used by every part of the bench. Pure.

use serde_json::{Value, json};

/// Measured values in ascending order; never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// `None` without values.
    pub fn new(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then_some(Self(values))
    }

    /// The smallest value that at least this share (0–1) of the values does not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let n = self.0.len();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let rank = (share * n as f64).ceil() as usize;
        self.0[rank.clamp(1, n) - 1]
    }

    /// The middle value, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let n = self.0.len();
        f64::midpoint(self.0[(n - 1) / 2], self.0[n / 2])
    }

    /// How many values there are; at least one.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn min(&self) -> f64 {
        self.0[0]
    }

    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    pub fn json(&self) -> Value {
        json!({"median": self.median(), "p99": self.quantile(0.99), "min": self.min(), "max": self.max(),
               "values": self.0})
    }
}

/// Samples of those that took turns at the same thing, by name; raw Docker's first.
#[derive(Clone, Debug)]
pub struct Contenders(pub Vec<(&'static str, Sample)>);

impl Contenders {
    /// Who had no round is left out.
    pub fn new(rounds: impl IntoIterator<Item = (&'static str, Vec<f64>)>) -> Self {
        let samples = rounds.into_iter();
        Self(
            samples
                .filter_map(|(name, seconds)| Some((name, Sample::new(seconds)?)))
                .collect(),
        )
    }

    /// Median by raw Docker's.
    pub fn ratio(&self, of: &Sample) -> f64 {
        of.median() / self.0[0].1.median()
    }

    pub fn rounds(&self) -> usize {
        self.0.iter().map(|(_, sample)| sample.len()).max().unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        let each = self.0.iter().map(|(name, sample)| {
            let value = json!({"seconds": sample.json(), "ratio": self.ratio(sample)});
            ((*name).to_owned(), value)
        });
        Value::Object(each.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample::new(values.to_vec()).expect("values")
    }

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(Sample::new(vec![]), None);
        let one = sample(&[7.0]);
        assert_eq!((one.median(), one.quantile(0.0), one.quantile(0.99)), (7.0, 7.0, 7.0));
        let odd = sample(&[3.0, -1.0, 2.0]);
        assert_eq!((odd.median(), odd.min(), odd.max()), (2.0, -1.0, 3.0));
        assert!((sample(&[4.0, 1.0, 2.0, 3.0]).median() - 2.5).abs() < f64::EPSILON);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let hundred = sample(&hundred);
        assert_eq!((hundred.quantile(0.5), hundred.quantile(0.99)), (50.0, 99.0));
        // With fewer than a hundred values the 99th percentile is the largest.
        assert_eq!(sample(&[1.0, 9.0]).quantile(0.99), 9.0);
    }
}
