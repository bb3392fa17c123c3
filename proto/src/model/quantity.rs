//! Quantities as Kubernetes writes them: `500m`, `2`, `1.5`, `64Mi`, `1e3`.
//! Source of the syntax: Kubernetes' API conventions, resource.Quantity.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// An amount, in thousandths, that keeps the text it was written as. Compared by amount.
#[derive(Clone, Debug)]
pub struct Quantity {
    milli: i128,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a quantity such as 500m, 2, 1.5, 64Mi or 1G")]
pub struct QuantityError(pub String);

/// Suffix → factor in thousandths.
const SUFFIXES: [(&str, i128); 14] = [
    ("Ki", 1000 << 10),
    ("Mi", 1000 << 20),
    ("Gi", 1000 << 30),
    ("Ti", 1000 << 40),
    ("Pi", 1000 << 50),
    ("Ei", 1000 << 60),
    ("m", 1),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000_000),
    ("", 1000),
];

/// Beyond this (2^63 units) Kubernetes saturates; here it is refused.
const MAX_MILLI: i128 = (i64::MAX as i128) * 1000;

impl Quantity {
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let bad = || QuantityError(text.to_owned());
        let number_end = text
            .char_indices()
            .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && matches!(c, '+' | '-'))))
            .map_or(text.len(), |(i, _)| i);
        let (number, suffix) = text.split_at(number_end);
        let factor = if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|e| !e.is_empty()) {
            let exponent: u32 = exponent
                .strip_prefix('+')
                .unwrap_or(exponent)
                .parse()
                .map_err(|_| bad())?;
            if exponent > 18 {
                return Err(bad());
            }
            1000 * 10_i128.pow(exponent)
        } else {
            SUFFIXES
                .iter()
                .find(|(s, _)| *s == suffix)
                .map(|(_, f)| *f)
                .ok_or_else(bad)?
        };
        let (sign, digits) = match number.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty())
            || whole.len() > 19
            || fraction.len() > 18
            || fraction.contains('.')
        {
            return Err(bad());
        }
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| bad())?
        };
        let mut milli = whole.checked_mul(factor).ok_or_else(bad)?;
        if !fraction.is_empty() {
            let numerator: i128 = fraction.parse().map_err(|_| bad())?;
            let denominator = 10_i128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
            let scaled = numerator.checked_mul(factor).ok_or_else(bad)?;
            // Kubernetes rounds a fraction of the smallest unit up.
            milli += (scaled + denominator - 1) / denominator;
        }
        if milli > MAX_MILLI {
            return Err(bad());
        }
        Ok(Self {
            milli: sign * milli,
            text: text.to_owned(),
        })
    }

    /// Thousandths of a unit, e.g. of a CPU.
    pub fn from_milli(milli: u64) -> Self {
        let text = if milli.is_multiple_of(1000) {
            (milli / 1000).to_string()
        } else {
            format!("{milli}m")
        };
        Self {
            milli: i128::from(milli),
            text,
        }
    }

    /// Whole units, e.g. pods.
    pub fn from_units(units: u64) -> Self {
        Self {
            milli: i128::from(units) * 1000,
            text: units.to_string(),
        }
    }

    /// Bytes, written in Ki as a kubelet does where that is exact.
    pub fn from_bytes(bytes: u64) -> Self {
        let text = if bytes >= 1024 && bytes.is_multiple_of(1024) {
            format!("{}Ki", bytes / 1024)
        } else {
            bytes.to_string()
        };
        Self {
            milli: i128::from(bytes) * 1000,
            text,
        }
    }

    pub fn is_negative(&self) -> bool {
        self.milli < 0
    }

    /// Thousandths, 0 when negative.
    pub fn milli(&self) -> u64 {
        u64::try_from(self.milli.max(0)).unwrap_or(u64::MAX)
    }

    /// Whole units, rounded up, 0 when negative.
    pub fn units(&self) -> u64 {
        u64::try_from((self.milli.max(0) + 999) / 1000).unwrap_or(u64::MAX)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.milli == other.milli
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.milli.cmp(&other.milli)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

/// Accepts what Kubernetes accepts: a string, or a bare number (`cpu: 2`).
impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Quantity;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 500m, 2, 1.5, 64Mi or 1G")
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<Quantity, E> {
                Quantity::parse(v).map_err(E::custom)
            }
            fn visit_u64<E: Error>(self, v: u64) -> Result<Quantity, E> {
                self.visit_str(&v.to_string())
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<Quantity, E> {
                self.visit_str(&v.to_string())
            }
            fn visit_f64<E: Error>(self, v: f64) -> Result<Quantity, E> {
                self.visit_str(&v.to_string())
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_kubernetes_writes() {
        for (text, milli) in [
            ("500m", 500),
            ("2", 2000),
            ("1.5", 1500),
            (".5", 500),
            ("0.1", 100),
            ("64Mi", (64 << 20) * 1000),
            ("1G", 1_000_000_000_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("0.5Gi", (512 << 20) * 1000),
            ("+1", 1000),
            ("0.0001", 1),
        ] {
            assert_eq!(Quantity::parse(text).map(|q| q.milli()), Ok(milli), "{text}");
        }
        assert!(Quantity::parse("-1").is_ok_and(|q| q.is_negative() && q.milli() == 0));
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "abc",
            "1.2.3",
            "1 Gi",
            "1gi",
            "1KB",
            "m",
            "-",
            "1e",
            "1e99",
            "9223372036854775807Ei",
            "0x10",
            "1_000",
        ] {
            assert_eq!(
                Quantity::parse(text).map(|_| ()),
                Err(QuantityError(text.to_owned())),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,12}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn what_is_written_reads_back(n in 0u64..(1 << 50)) {
            for q in [Quantity::from_milli(n), Quantity::from_units(n), Quantity::from_bytes(n)] {
                prop_assert_eq!(Quantity::parse(&q.to_string()).map(|r| r.milli()), Ok(q.milli()));
            }
        }
    }
}
