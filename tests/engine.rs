//! The engine from outside: what is built, written and opened again answers as it should, and nothing that is
//! thrown at it ends the process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "engine/batch.rs"]
mod batch;
#[path = "engine/bytes.rs"]
mod bytes;
#[path = "engine/cancel.rs"]
mod cancel;
#[path = "engine/clustering.rs"]
mod clustering;
#[path = "engine/data.rs"]
mod data;
#[path = "engine/exit.rs"]
mod exit;
#[path = "engine/external.rs"]
mod external;
#[path = "engine/families.rs"]
mod families;
#[path = "engine/graphs.rs"]
mod graphs;
#[path = "engine/hostile.rs"]
mod hostile;
#[path = "engine/measure.rs"]
mod measure;
#[path = "engine/memory.rs"]
mod memory;
#[path = "engine/parameters.rs"]
mod parameters;
#[path = "engine/process.rs"]
mod process;
#[path = "engine/processor_time.rs"]
mod processor_time;
#[path = "engine/recall_table.rs"]
mod recall_table;
#[path = "engine/resume.rs"]
mod resume;
#[path = "engine/rows.rs"]
mod rows;
#[path = "engine/strings.rs"]
mod strings;
#[path = "engine/table.rs"]
mod table;
