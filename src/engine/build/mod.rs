//! Making new FAISS objects from rows: an index under construction ([`Builder`]), k-means ([`Clustering`]), the bytes
//! around the rows of a Flat index ([`flat_head`]), and the code that an index keeps of one row ([`Kept`]).

mod builder;
mod flat_head;
mod kept_code;
mod kmeans;

pub(super) use builder::norm;
pub use builder::{Builder, SerialLayout};
pub use flat_head::flat_head;
pub use kept_code::{Kept, check_keeps_values};
pub use kmeans::{Clustering, ClusteringPlan};
