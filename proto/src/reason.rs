//! Why somebody asks for a change: text that goes with any write as the header `wharf-reason` and ends in the audit
//! record. Set by the command (`--reason`), read by the coordinator.
//!
//! Invariant: a reason is one line of bounded length, and whatever a header holds gives one or an error.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Name of the header. Its value is the text with `%`, control characters and what is not ASCII percent-encoded.
pub const HEADER: &str = "wharf-reason";

/// Longest reason, bytes of UTF-8.
pub const LONGEST: usize = 1000;

const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// A reason as typed: without the spaces around it. The error is the end of a sentence about it.
pub fn check(text: &str) -> Result<&str, String> {
    let text = text.trim();
    if text.len() > LONGEST {
        return Err(format!("must have at most {LONGEST} bytes, has {}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("must be one line without control characters".to_owned());
    }
    Ok(text)
}

/// The header's value.
pub fn encode(reason: &str) -> String {
    utf8_percent_encode(reason, ENCODED).to_string()
}

/// From the header's value. The error is the end of a sentence about it.
pub fn decode(value: &str) -> Result<String, String> {
    let text = percent_decode_str(value)
        .decode_utf8()
        .map_err(|_| "must be percent-encoded UTF-8".to_owned())?;
    check(&text).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_no_reason_is() {
        for bad in ["two%0Alines", "%FF", "a%07bell", &"x".repeat(LONGEST + 1)] {
            assert!(decode(bad).is_err(), "{bad}");
        }
        assert_eq!(decode(" RAM swap ").as_deref(), Ok("RAM swap"));
        assert_eq!(encode("50 % für"), "50 %25 f%C3%BCr");
    }

    proptest! {
        #[test]
        fn any_reason_survives_the_header(text in "\\PC{0,80}") {
            let reason = check(&text).unwrap_or_default();
            let header = encode(reason);
            prop_assert!(header.bytes().all(|b| (0x20..0x7f).contains(&b)));
            prop_assert_eq!(decode(&header), Ok(reason.to_owned()));
        }
    }
}
