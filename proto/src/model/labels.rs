//! Syntax of names, label keys and label values.
//! Source: Kubernetes' documentation "Object Names and IDs" and "Labels and Selectors" (RFC 1035/1123).

fn alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// RFC 1123 label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 characters.
pub fn check_dns_label(text: &str) -> Result<(), String> {
    let ok = !text.is_empty()
        && text.len() <= 63
        && text.chars().all(|c| alphanumeric(c) || c == '-')
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric);
    if ok {
        Ok(())
    } else {
        Err(format!(
            "{} must be a DNS label: at most 63 of a-z, 0-9 and '-', not at an end",
            quoted(text)
        ))
    }
}

/// RFC 1123 subdomain: DNS labels joined by dots, at most 253 characters.
pub fn check_dns_subdomain(text: &str) -> Result<(), String> {
    if text.len() <= 253 && text.split('.').all(|part| check_dns_label(part).is_ok()) {
        Ok(())
    } else {
        Err(format!(
            "{} must be a DNS subdomain: at most 253 of a-z, 0-9, '-' and '.', beginning and ending with a-z or 0-9",
            quoted(text)
        ))
    }
}

/// `[prefix/]name`: the prefix a DNS subdomain, the name as [`check_label_value`] but not empty.
pub fn check_label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_none_or(|p| check_dns_subdomain(p).is_ok()) && !name.is_empty() && check_label_value(name).is_ok() {
        Ok(())
    } else {
        Err(format!(
            "key {} must be [DNS-subdomain/]name, the name at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit",
            quoted(key)
        ))
    }
}

/// Empty, or at most 63 of `[A-Za-z0-9_.-]`, beginning and ending with a letter or digit.
pub fn check_label_value(value: &str) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: char| c.is_ascii_alphanumeric();
    if value.is_empty()
        || (value.len() <= 63 && value.chars().all(inner) && value.starts_with(edge) && value.ends_with(edge))
    {
        Ok(())
    } else {
        Err(format!(
            "value {} must be empty or at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit",
            quoted(value)
        ))
    }
}

/// In quotes, cut to a length that a terminal bears.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        format!("{short:?}…")
    } else {
        format!("{short:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels() {
        let long = "a".repeat(64);
        for ok in ["a", "a-b", "0", &long[1..]] {
            assert!(check_dns_label(ok).is_ok(), "{ok}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &long] {
            assert!(check_dns_label(bad).is_err(), "{bad}");
        }
        for ok in ["a", "a.b-c.d", "node1.example"] {
            assert!(check_dns_subdomain(ok).is_ok(), "{ok}");
        }
        for bad in ["", ".a", "a.", "a..b", "a/b", &"a.".repeat(130)] {
            assert!(check_dns_subdomain(bad).is_err(), "{bad}");
        }
        for ok in ["a", "kubernetes.io/hostname", "A_b.C-1"] {
            assert!(check_label_key(ok).is_ok(), "{ok}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "ä", "A/b", &long] {
            assert!(check_label_key(bad).is_err(), "{bad}");
        }
        for ok in ["", "v1", "A_b.C-1"] {
            assert!(check_label_value(ok).is_ok(), "{ok}");
        }
        for bad in ["-", "a b", "ä", "a/b", &long] {
            assert!(check_label_value(bad).is_err(), "{bad}");
        }
    }
}
