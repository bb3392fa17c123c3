//! A number, or a share of another one: what Kubernetes calls IntOrString. In budgets and in the updates of daemon sets.
//!
//! Invariant: it is written as it was read; a share is rounded up, as in Kubernetes.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Unexpected},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrPercent {
    Int(i32),
    /// Of a hundred.
    Percent(u32),
}

impl IntOrPercent {
    /// Of so many; a share is rounded up.
    pub fn of(self, total: i64) -> i64 {
        match self {
            Self::Int(n) => i64::from(n),
            Self::Percent(share) => total
                .saturating_mul(i64::from(share))
                .saturating_add(99)
                .div_euclid(100),
        }
    }

    /// As a command is given it: `3`, `25%`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::percent(text).or_else(|| text.parse().ok().map(Self::Int))
    }

    /// A share as it is written: digits and a percent sign, without leading zeros.
    fn percent(text: &str) -> Option<Self> {
        let share: u32 = text.strip_suffix('%')?.parse().ok()?;
        let percent = Self::Percent(share);
        (percent.to_string() == text).then_some(percent)
    }
}

impl fmt::Display for IntOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl Serialize for IntOrPercent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(n) => serializer.serialize_i32(*n),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = IntOrPercent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, or a percentage such as \"50%\"")
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<IntOrPercent, E> {
        let int = i32::try_from(n).map(IntOrPercent::Int);
        int.map_err(|_| E::invalid_value(Unexpected::Signed(n), &self))
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<IntOrPercent, E> {
        let int = i32::try_from(n).map(IntOrPercent::Int);
        int.map_err(|_| E::invalid_value(Unexpected::Unsigned(n), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<IntOrPercent, E> {
        IntOrPercent::percent(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn numbers_and_shares() {
        for (value, read, of_ten) in [
            (json!(3), IntOrPercent::Int(3), 3),
            (json!(0), IntOrPercent::Int(0), 0),
            (json!(-1), IntOrPercent::Int(-1), -1),
            (json!("0%"), IntOrPercent::Percent(0), 0),
            (json!("1%"), IntOrPercent::Percent(1), 1),
            (json!("25%"), IntOrPercent::Percent(25), 3),
            (json!("100%"), IntOrPercent::Percent(100), 10),
            (json!("150%"), IntOrPercent::Percent(150), 15),
        ] {
            let found: IntOrPercent = serde_json::from_value(value.clone()).expect("it reads");
            assert_eq!((found, found.of(10)), (read, of_ten), "{value}");
            assert_eq!(serde_json::to_value(found).expect("JSON"), value);
        }
        assert_eq!(
            IntOrPercent::Percent(u32::MAX).of(i64::MAX),
            i64::MAX / 100,
            "no overflow"
        );
    }

    #[test]
    fn what_is_neither() {
        for (value, found) in [
            (json!("3"), "string \"3\""),
            (json!("%"), "string \"%\""),
            (json!("-5%"), "string \"-5%\""),
            (json!("+5%"), "string \"+5%\""),
            (json!("050%"), "string \"050%\""),
            (json!("1.5%"), "string \"1.5%\""),
            (json!(1.5), "floating point `1.5`"),
            (json!(1_u64 << 40), "integer `1099511627776`"),
            (json!(true), "boolean `true`"),
            (Value::Null, "null"),
            (json!([1]), "sequence"),
        ] {
            let error = serde_json::from_value::<IntOrPercent>(value.clone()).expect_err("refused");
            let error = error.to_string();
            let expected = "expected a whole number, or a percentage such as \"50%\"";
            assert!(error.contains(found) && error.ends_with(expected), "{value}: {error}");
        }
    }
}
