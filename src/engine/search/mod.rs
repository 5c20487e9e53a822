//! Searching an immutable index where its bytes lie ([`OpenIndex`]): one query (`open_index`), a batch of queries
//! (`query_batch`), reading its rows back (`stored_rows`), the parameters of a search ([`SearchParams`]) and their text
//! form (`param_names`).

mod open_index;
mod param_names;
mod query_batch;
mod search_params;
mod stored_rows;

pub use open_index::{Hit, MappedBytes, OpenIndex};
pub(super) use open_index::{search, search_raw, zeros};
pub use param_names::{KnownParams, ParamsError};
pub use search_params::SearchParams;
