//! Errors of an index, and their conversion to SQLSTATEs.

use pgrx::PgSqlErrorCode as Code;

use super::format::FormatError;
use crate::engine::{EngineError, ExternalIndexError};
use crate::pg::error::{SqlError, capitalised};

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A page was reused while it was being read; the reader restarts from the root.
    #[error("a page was reused while it was read")]
    Stale,
    #[error("{0}")]
    Damaged(String),
    #[error("could not write cache file: {0}")]
    Cache(std::io::Error),
    #[error("could not get random bytes: {0}")]
    Random(getrandom::Error),
    #[error("different vector dimensions {expected} and {found}")]
    Dimensions { expected: usize, found: usize },
    #[error("the index has too many pieces of free space")]
    Fragmented,
    #[error("the vector of the row with id {id} is too long for this index type")]
    TooLong { id: i64 },
    #[error("the id column contains null values")]
    NoId,
    #[error("not enough memory to build the index")]
    Memory(MemoryShortage),
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl IndexError {
    /// Whether the index itself is damaged; other errors are transient, and nothing is lost.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            IndexError::Stale
                | IndexError::Damaged(_)
                | IndexError::Format(_)
                | IndexError::Engine(EngineError::Corrupt { .. })
        )
    }
}

/// Not enough memory for a build, detected before it started.
#[derive(Debug)]
pub struct MemoryShortage {
    pub kind: ShortageKind,
    pub factory: String,
    pub needed_bytes: u64,
    pub available_bytes: u64,
}

impl From<std::collections::TryReserveError> for IndexError {
    fn from(_: std::collections::TryReserveError) -> Self {
        IndexError::Engine(EngineError::OutOfMemory)
    }
}

/// The limit that was exceeded.
#[derive(Clone, Copy, Debug)]
pub enum ShortageKind {
    /// The machine's memory, for the whole build.
    System,
    /// `maintenance_work_mem`, for everything but the index itself.
    Setting,
}

/// Number of ids that an error message lists.
pub const NAMED_IDS: usize = 5;

/// Why an external index does not fit the table.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    External(#[from] ExternalIndexError),
    /// The engine found a structure that contradicts the file's own header.
    #[error("{0}")]
    Inconsistent(String),
    #[error("it has {file} dimensions, and the column has {table}")]
    Dimensions { file: usize, table: usize },
    #[error(
        "its rows have no ids, so they must be those of the table in the order of ids; it has {file} rows, and the table has {table}"
    )]
    Count { file: u64, table: u64 },
    #[error("{count} of its {rows} rows have an id that no row of the table with a vector has: {ids}")]
    Missing { count: usize, rows: u64, ids: Ids },
    #[error("{count} of its {rows} rows differ from the table's rows with the same ids: {ids}")]
    Changed { count: usize, rows: u64, ids: Ids },
    #[error("{count} of {compared} compared rows differ from the table's rows with the same ids: {ids}")]
    Mismatched { count: usize, compared: usize, ids: Ids },
    #[error("two rows of the table have the id {0}")]
    Ambiguous(i64),
    #[error("the table has no rows with vectors, so there is nothing to keep it for")]
    EmptyTable,
}

/// Some ids, with a note if there are more.
#[derive(Debug)]
pub struct Ids(String);

impl Ids {
    pub fn of(ids: &[i64], count: usize) -> Self {
        let names: Vec<String> = ids.iter().take(NAMED_IDS).map(i64::to_string).collect();
        Ids(names.join(", ") + if count > NAMED_IDS { " and others" } else { "" })
    }
}

impl std::fmt::Display for Ids {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

const REINDEX: &str = "Rebuild the index with REINDEX.";

impl From<IndexError> for SqlError {
    fn from(error: IndexError) -> SqlError {
        let message = error.to_string();
        let corrupted = |detail: String| {
            SqlError::new(Code::ERRCODE_INDEX_CORRUPTED, "faiss index is damaged")
                .detail(detail)
                .hint(REINDEX)
        };
        match error {
            IndexError::Engine(error) => from_engine(error),
            IndexError::Format(FormatError::Version(version)) => SqlError::new(
                Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!(
                    "faiss index has format version {version}, which this version of vekter does not support"
                ),
            )
            .hint(REINDEX),
            IndexError::Format(_) | IndexError::Stale | IndexError::Damaged(_) => {
                corrupted(format!("{}.", capitalised(&message)))
            }
            IndexError::Cache(error) => {
                let code = match error.raw_os_error() {
                    Some(number) if number == rustix::io::Errno::NOSPC.raw_os_error() => {
                        Code::ERRCODE_DISK_FULL
                    }
                    _ => Code::ERRCODE_IO_ERROR,
                };
                SqlError::new(code, message).hint(
                    "The server keeps a copy of each segment in the folder pgsql_tmp_vekter of its data directory.",
                )
            }
            IndexError::Random(_) => SqlError::new(Code::ERRCODE_SYSTEM_ERROR, message),
            IndexError::Dimensions { .. } => SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message),
            IndexError::TooLong { .. } => SqlError::new(Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, message)
                .hint("Only an index of the factory Flat holds vectors of any length."),
            IndexError::NoId => SqlError::new(Code::ERRCODE_NOT_NULL_VIOLATION, message)
                .hint("Give every row an id, and declare the column NOT NULL."),
            IndexError::Fragmented => {
                SqlError::new(Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message).hint(REINDEX)
            }
            IndexError::Memory(shortage) => shortage.into(),
            IndexError::Import(error) => error.into(),
        }
    }
}

impl From<EngineError> for SqlError {
    fn from(error: EngineError) -> SqlError {
        from_engine(error)
    }
}

impl From<ExternalIndexError> for SqlError {
    fn from(error: ExternalIndexError) -> SqlError {
        let unsupported = |detail: String| {
            let message = "cannot import this FAISS index";
            SqlError::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, message).detail(detail)
        };
        let detail = format!("{}.", capitalised(&error.to_string()));
        match error {
            ExternalIndexError::Damaged(_) => {
                SqlError::new(Code::ERRCODE_INVALID_BINARY_REPRESENTATION, "not a valid FAISS index")
                    .detail(detail)
                    .hint("Write the index again with faiss.write_index() or faiss.serialize_index().")
            }
            ExternalIndexError::Unsupported(_) => unsupported(detail).hint(
                "Import an index as faiss.index_factory() makes it, or have CREATE INDEX build one from the table.",
            ),
            ExternalIndexError::Family(_) => {
                unsupported(detail).hint("CREATE INDEX builds an index of this kind from the table.")
            }
            ExternalIndexError::Interrupted => from_engine(EngineError::Interrupted),
        }
    }
}

impl From<ImportError> for SqlError {
    fn from(error: ImportError) -> SqlError {
        let misfit = |detail: String| {
            let message = "the FAISS index does not fit the table";
            SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message).detail(detail)
        };
        let detail = format!("{}.", capitalised(&error.to_string()));
        match error {
            ImportError::External(error) => error.into(),
            ImportError::Inconsistent(reason) => ExternalIndexError::Unsupported(reason).into(),
            ImportError::Count { .. } => misfit(detail)
                .hint("Wrap the index in an IndexIDMap2, and add its rows with their ids: add_with_ids()."),
            ImportError::Missing { .. } => {
                misfit(detail).hint("Export or build it again, or import it without rows, after reset().")
            }
            ImportError::Changed { .. } | ImportError::Mismatched { .. } => misfit(detail)
                .hint("Build it of the table's vectors, or import it without rows, after reset()."),
            ImportError::Ambiguous(_) => {
                misfit(detail).hint("Name a column that identifies rows, such as the primary key.")
            }
            ImportError::Dimensions { .. } | ImportError::EmptyTable => misfit(detail),
        }
    }
}

impl From<MemoryShortage> for SqlError {
    fn from(MemoryShortage { kind, factory, needed_bytes, available_bytes }: MemoryShortage) -> SqlError {
        let (needed, available) = (needed_bytes.div_ceil(1 << 20), available_bytes >> 20);
        match kind {
            ShortageKind::System => SqlError::new(
                Code::ERRCODE_OUT_OF_MEMORY,
                "not enough memory to build the index",
            )
            .detail(format!(
                "Building \"{factory}\" over this table takes about {needed} MB, and {available} MB are \
                         available."
            ))
            .hint("Choose a factory with smaller codes, such as IVF1024,SQ8 or IVF1024,PQ32x4fs."),
            ShortageKind::Setting => SqlError::new(
                Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                "maintenance_work_mem is too small to build the index",
            )
            .detail(format!(
                "Building \"{factory}\" over this table takes about {needed} MB beside the index itself, and \
                 maintenance_work_mem allows {available} MB."
            ))
            .hint(format!(
                "Set maintenance_work_mem to at least {needed} MB, or choose a factory with fewer lists or none."
            )),
        }
    }
}

fn from_engine(error: EngineError) -> SqlError {
    let message = error.to_string();
    match error {
        EngineError::Refused { meant, .. } => {
            let error = SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message);
            match meant {
                Some(meant) => error.hint(format!("Did you mean \"{meant}\"?")),
                None => error,
            }
        }
        EngineError::UntrainableSample { .. } => {
            SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("Choose a factory that needs fewer rows, such as Flat.")
        }
        EngineError::BadParameter { .. } => SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message),
        EngineError::Corrupt { .. } => SqlError::new(Code::ERRCODE_INDEX_CORRUPTED, "faiss index is damaged")
            .detail(message)
            .hint(REINDEX),
        EngineError::OutOfMemory => SqlError::new(Code::ERRCODE_OUT_OF_MEMORY, message),
        EngineError::Interrupted => {
            SqlError::new(Code::ERRCODE_QUERY_CANCELED, "canceling statement due to user request")
        }
        EngineError::Io(error) => IndexError::Cache(error).into(),
        EngineError::Failed { .. } => SqlError::new(Code::ERRCODE_INTERNAL_ERROR, message),
    }
}
