//! The languages that `lovage new` and `lovage build` know.

use std::fmt;

use clap::ValueEnum;
use serde::Deserialize;

/// What a task is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Language {
    /// Rust, by cargo
    Rust,
    /// Python, by componentize-py
    Python,
    /// JavaScript, on QuickJS
    Js,
    /// TypeScript, on QuickJS
    Ts,
    /// C, by clang
    C,
    /// Go, by its own compiler
    Go,
    /// Zig
    Zig,
    /// AssemblyScript, by asc
    AssemblyScript,
}

/// As a person writes it.
impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::Js => "JavaScript",
            Self::Ts => "TypeScript",
            Self::C => "C",
            Self::Go => "Go",
            Self::Zig => "Zig",
            Self::AssemblyScript => "AssemblyScript",
        })
    }
}
