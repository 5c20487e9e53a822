//! Searching an immutable index where its bytes lie ([`OpenIndex`]): one query (`open_index`), many at once
//! (`query_batch`), its rows read back (`stored_rows`), and the parameters of a search ([`SearchParams`]) with their
//! names in SQL (`param_names`).

mod open_index;
mod param_names;
mod query_batch;
mod search_params;
mod stored_rows;

pub use open_index::{Hit, MappedBytes, OpenIndex};
pub(super) use open_index::{search, search_raw, zeros};
pub use param_names::{KnownParams, ParamsError};
pub use search_params::SearchParams;
