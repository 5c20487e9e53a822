//! Queries through SPI, and prepared plans that outlive the call that made them.

use pgrx::{FromDatum, pg_sys};

use super::text;

/// A saved plan; freed on drop.
pub struct Plan(pg_sys::SPIPlanPtr);

/// A result row, valid during the callback.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Row {
    /// The value of a column (the first is 1); None for NULL.
    pub fn datum(&self, column: i32) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: tuple and descriptor are those of the current SPI result.
        let datum = unsafe { pg_sys::SPI_getbinval(self.tuple, self.descriptor, column, &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// The value of a column, converted to a type that copies it; None for NULL.
    ///
    /// # Safety
    /// The column is of the SQL type that `T` stands for.
    pub unsafe fn get<T: FromDatum>(&self, column: i32) -> Option<T> {
        // SAFETY: the caller's promise.
        self.datum(column).and_then(|datum| unsafe { T::from_datum(datum, false) })
    }

    /// The value of a column of type `text`; None for NULL.
    ///
    /// # Safety
    /// The column is of that type.
    pub unsafe fn text(&self, column: i32) -> Option<String> {
        // SAFETY: the caller's promise.
        unsafe { self.get::<text::Text>(column) }.map(text::Text::into_string)
    }

    /// The values of the first columns; None for NULL.
    ///
    /// # Safety
    /// They are of the SQL types that the elements of `C`, a tuple, stand for.
    pub unsafe fn columns<C: Columns>(&self) -> C {
        // SAFETY: the caller's promise.
        unsafe { C::of(self, 1) }
    }

    /// As `columns`, from this one on (the first is 1).
    ///
    /// # Safety
    /// As of `columns`.
    pub unsafe fn columns_from<C: Columns>(&self, first: i32) -> C {
        // SAFETY: the caller's promise.
        unsafe { C::of(self, first) }
    }

    /// The value of a varlena column, copied to the memory context that was current when the query began; None for
    /// NULL.
    pub fn kept_datum(&self, column: i32) -> Option<pg_sys::Datum> {
        // SAFETY: the column is of such a type, and the SPI connection is open while the callback runs.
        self.datum(column).map(|datum| unsafe { pg_sys::SPI_datumTransfer(datum, false, -1) })
    }
}

/// Values of neighbouring columns of a row.
pub trait Columns {
    /// # Safety
    /// As of [`Row::columns`].
    unsafe fn of(row: &Row, first: i32) -> Self;
}

macro_rules! columns {
    ($($kind:ident: $place:literal),*) => {
        impl<$($kind: FromDatum),*> Columns for ($(Option<$kind>,)*) {
            unsafe fn of(row: &Row, first: i32) -> Self {
                ($(
                    // SAFETY: the caller's promise.
                    unsafe { row.get(first + $place) },
                )*)
            }
        }
    };
}

columns!(A: 0, B: 1);
columns!(A: 0, B: 1, C: 2);
columns!(A: 0, B: 1, C: 2, D: 3);
columns!(A: 0, B: 1, C: 2, D: 3, E: 4);

impl Plan {
    pub fn prepare(query: &str, argument_types: &[pg_sys::Oid]) -> Self {
        Self::prepare_with(query, argument_types, 0)
    }

    /// As `prepare`, but planned once for all argument values (a generic plan).
    pub fn prepare_generic(query: &str, argument_types: &[pg_sys::Oid]) -> Self {
        Self::prepare_with(query, argument_types, pg_sys::CURSOR_OPT_GENERIC_PLAN as i32)
    }

    fn prepare_with(query: &str, argument_types: &[pg_sys::Oid], options: i32) -> Self {
        let mut types = argument_types.to_vec();
        let query = text::to_server(query);
        connect();
        // SAFETY: the string and the array, which has as many elements as is said, outlive the call.
        let plan = unsafe {
            pg_sys::SPI_prepare_cursor(query.as_ptr(), types.len() as i32, types.as_mut_ptr(), options)
        };
        // SAFETY: a plan of this connection, which it outlives from now on.
        if plan.is_null() || unsafe { pg_sys::SPI_keepplan(plan) } != 0 {
            pgrx::error!("could not prepare a query over the table");
        }
        finish();
        Plan(plan)
    }

    pub fn as_ptr(&self) -> pg_sys::SPIPlanPtr {
        self.0
    }

    /// Runs the plan read-only under the active snapshot: the calling query's, or a newer one that was pushed. None is
    /// NULL.
    pub fn for_each_row(&self, arguments: &[Option<pg_sys::Datum>], mut visit: impl FnMut(&Row)) {
        let mut values: Vec<_> = arguments.iter().map(|value| value.unwrap_or(0.into())).collect();
        let nulls: Vec<_> = arguments.iter().map(|value| if value.is_some() { b' ' } else { b'n' }).collect();
        connect();
        let (values, nulls) = (values.as_mut_ptr(), nulls.as_ptr().cast());
        // SAFETY: the plan is alive, with as many parameters as arguments.
        let code = unsafe { pg_sys::SPI_execute_plan(self.0, values, nulls, true, 0) };
        if code != pg_sys::SPI_OK_SELECT as i32 {
            pgrx::error!("could not run a query over the table");
        }
        // SAFETY: a query has a result, which stays until the connection ends.
        rows(unsafe { &*result() }).for_each(|row| visit(&row));
        finish();
    }
}

/// The table of the last query's rows.
fn result() -> *mut pg_sys::SPITupleTable {
    // SAFETY: a pointer of this process.
    unsafe { pg_sys::SPI_tuptable }
}

fn rows(table: &pg_sys::SPITupleTable) -> impl Iterator<Item = Row> {
    // SAFETY: a result has as many tuples as it says.
    let tuples = unsafe { core::slice::from_raw_parts(table.vals, table.numvals as usize) };
    tuples.iter().map(|&tuple| Row { tuple, descriptor: table.tupdesc })
}

/// A query whose result is read in batches: read-only, under the calling query's snapshot, without parallel workers.
pub struct QueryCursor(pg_sys::Portal);

impl QueryCursor {
    pub fn open(query: &str) -> Self {
        let query = text::to_server(query);
        connect();
        // SAFETY: the string outlives the call; the query has no parameters.
        let plan = unsafe { pg_sys::SPI_prepare(query.as_ptr(), 0, core::ptr::null_mut()) };
        if plan.is_null() {
            pgrx::error!("could not prepare a query over the table");
        }
        let (name, values, nulls) = (core::ptr::null(), core::ptr::null_mut(), core::ptr::null());
        // SAFETY: a plan without parameters; the portal lives until `drop`, or the transaction's abort.
        QueryCursor(unsafe { pg_sys::SPI_cursor_open(name, plan, values, nulls, true) })
    }

    /// Calls `visit` with the next rows, at most `limit`, and returns their number. The rows of one call are in memory
    /// together.
    pub fn fetch(&mut self, limit: usize, mut visit: impl FnMut(&Row)) -> usize {
        // SAFETY: the portal is open, in the SPI connection that `open` made.
        unsafe { pg_sys::SPI_cursor_fetch(self.0, true, limit as core::ffi::c_long) };
        let (table, mut count) = (result(), 0);
        // SAFETY: a query has a result, which stays until it is freed.
        for row in rows(unsafe { &*table }) {
            visit(&row);
            count += 1;
        }
        // SAFETY: the result of this fetch, which nobody reads any more.
        unsafe { pg_sys::SPI_freetuptable(table) };
        count
    }
}

impl Drop for QueryCursor {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in `open`; SPI connections made since were ended since.
            unsafe { pg_sys::SPI_cursor_close(self.0) };
            finish();
        }
    }
}

/// Runs a statement that returns no rows, with the caller's privileges and in the caller's transaction.
pub fn run(statement: &str) {
    let statement = text::to_server(statement);
    connect();
    // SAFETY: a C string that outlives the call.
    let code = unsafe { pg_sys::SPI_execute(statement.as_ptr(), false, 0) };
    if code < 0 {
        pgrx::error!("could not run a statement: SPI says {code}");
    }
    finish();
}

/// Begins a connection, which the caller ends with `finish`; an error ends it by itself.
fn connect() {
    // SAFETY: called inside a transaction.
    if unsafe { pg_sys::SPI_connect() } != pg_sys::SPI_OK_CONNECT as i32 {
        pgrx::error!("could not connect to SPI");
    }
}

/// Ends the connection that was begun last, and frees its results.
fn finish() {
    // SAFETY: an error code where there is none.
    unsafe { pg_sys::SPI_finish() };
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: a flag of this process. Plans that are kept for the life of the backend are dropped when it exits,
        // after all of PostgreSQL's own callbacks.
        if !std::thread::panicking() && !unsafe { pg_sys::proc_exit_inprogress } {
            // SAFETY: made by SPI_keepplan and freed once.
            unsafe { pg_sys::SPI_freeplan(self.0) };
        }
    }
}
