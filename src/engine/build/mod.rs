//! Building FAISS objects from rows: an index under construction ([`Builder`]) and its bytes (`write`), k-means
//! ([`Clustering`]), the bytes around the rows of a Flat index ([`flat_head`]), and the code that an index stores for
//! one row ([`EncodedRow`]).

mod builder;
mod encoded_row;
mod flat_head;
mod kmeans;
mod write;

pub use builder::Builder;
pub(super) use builder::norm;
pub use encoded_row::{EncodedRow, check_decodable};
pub use flat_head::flat_head;
pub use kmeans::{Clustering, ClusteringPlan};
pub use write::SerialLayout;
