//! Factory strings: which ones the engine builds, what they make, what that costs to build, and which one `auto` stands
//! for.
//!
//! `grammar` reads a string into a [`Recipe`], `additive_codec` the codes of additive quantisers in it; `refusals` and
//! `spelling` explain a string that is refused. `build_memory` estimates a build from the recipe, and `auto_choice`
//! chooses by such estimates.

mod additive_codec;
mod auto_choice;
mod build_memory;
mod grammar;
mod recipe;
mod refusals;
mod spelling;

pub use auto_choice::{AUTO, Choice, Memory, Situation, grouped, scan_reason, scanned_rows};
pub use build_memory::BuildBytes;
pub(super) use build_memory::BuildSize;
pub(super) use grammar::parse;
pub(super) use recipe::{Codec, Recipe};
pub use recipe::{Reach, TrainingRows};
pub use spelling::canonical;
