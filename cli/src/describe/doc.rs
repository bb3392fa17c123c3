//! Lays out `Key:  value` lines: the values of one group stand in one column.
//!
//! Invariant: pure; every value is one line and safe for a terminal.

use std::collections::BTreeMap;

use crate::output::clean;

#[derive(Debug, Default)]
pub struct Doc {
    lines: Vec<Line>,
    group: usize,
}

#[derive(Debug)]
enum Line {
    Field { group: usize, key: String, value: String },
    Text(String),
}

impl Doc {
    /// The fields that follow are lined up by themselves.
    pub fn group(&mut self) {
        self.group += 1;
    }

    pub fn field(&mut self, indent: usize, key: &str, value: impl AsRef<str>) {
        let key = if key.is_empty() {
            String::new()
        } else {
            format!("{}:", clean(key))
        };
        self.lines.push(Line::Field {
            group: self.group,
            key: format!("{:indent$}{key}", ""),
            value: clean(value.as_ref()),
        });
    }

    /// As [`Doc::field`], left out when it says nothing.
    pub fn field_if(&mut self, indent: usize, key: &str, value: impl AsRef<str>) {
        if !value.as_ref().is_empty() {
            self.field(indent, key, value);
        }
    }

    /// One line a pair, `<none>` without any.
    pub fn pairs(&mut self, indent: usize, key: &str, map: &BTreeMap<String, String>) {
        if map.is_empty() {
            self.field(indent, key, "<none>");
        }
        for (i, (k, v)) in map.iter().enumerate() {
            self.field(indent, if i == 0 { key } else { "" }, format!("{k}={v}"));
        }
    }

    /// A key with nothing beside it; what follows stands below.
    pub fn heading(&mut self, indent: usize, key: &str) {
        self.lines.push(Line::Text(format!("{:indent$}{}:", "", clean(key))));
    }

    /// Lines of text, indented.
    pub fn block(&mut self, indent: usize, text: &str) {
        for line in text.lines() {
            self.lines.push(Line::Text(format!("{:indent$}{}", "", clean(line))));
        }
    }

    pub fn finish(self) -> String {
        let mut widths = vec![0; self.group + 1];
        for line in &self.lines {
            if let Line::Field { group, key, .. } = line {
                widths[*group] = widths[*group].max(key.chars().count());
            }
        }
        let mut out = String::new();
        for line in self.lines {
            match line {
                Line::Field { group, key, value } => {
                    let width = widths[group] + 2;
                    out.push_str(format!("{key:width$}{value}").trim_end());
                }
                Line::Text(text) => out.push_str(text.trim_end()),
            }
            out.push('\n');
        }
        out
    }
}
