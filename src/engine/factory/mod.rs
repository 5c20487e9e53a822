//! Factory strings: the strings that the engine builds, the memory that a build takes, and the choice behind `auto`.
//!
//! `grammar` parses a string into a [`Recipe`], `additive_codec` the codes of additive quantisers in it; `refusals` and
//! `spelling` explain a refused string. `build_memory` estimates a build from the recipe, and `auto_choice` compares
//! such estimates.

mod additive_codec;
mod auto_choice;
mod build_memory;
mod code_grammar;
mod grammar;
mod recipe;
mod refusals;
mod spelling;

pub use auto_choice::{AUTO, Choice, Memory, Situation, grouped, scan_reason, scanned_rows};
pub use build_memory::BuildBytes;
pub(super) use build_memory::BuildSize;
pub(super) use grammar::{parse, parse_without_dims};
pub(super) use recipe::{Codec, Recipe, Structure};
pub use recipe::{Reach, TrainingRows};
pub use spelling::canonical;
