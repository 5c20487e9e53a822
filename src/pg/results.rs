//! The rows of a set-returning function, in a tuple store that spills to disk beyond `work_mem`.

use pgrx::pg_sys;

/// The type of an argument of a call, counted from 0; InvalidOid where it is not known.
///
/// # Safety
/// `call` is the running call of a function.
pub unsafe fn argument_type(call: pg_sys::FunctionCallInfo, number: i32) -> pg_sys::Oid {
    // SAFETY: the caller's promise.
    let function = unsafe { (*call).flinfo };
    // SAFETY: what PostgreSQL knows of the function that is called.
    unsafe { pg_sys::get_fn_expr_argtype(function, number) }
}

/// The result rows of a function call.
pub struct ResultRows {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
}

impl ResultRows {
    /// Raises an error if the caller does not accept a set.
    ///
    /// # Safety
    /// `call` is the running call of a function that is declared to return a set of records.
    pub unsafe fn begin(call: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: the caller's promise.
        unsafe { pg_sys::InitMaterializedSRF(call, 0) };
        // SAFETY: the caller's promise; a function that returns a set is called with a place for it.
        let info = unsafe { (*call).resultinfo }.cast::<pg_sys::ReturnSetInfo>();
        // SAFETY: checked by InitMaterializedSRF, which has filled it in.
        let info = unsafe { &*info };
        // Both live as long as the calling query.
        ResultRows { store: info.setResult, descriptor: info.setDesc }
    }

    /// Adds a row: a value for each column, None for NULL. The values are copied.
    pub fn push<const COLUMNS: usize>(&mut self, values: [Option<pg_sys::Datum>; COLUMNS]) {
        // SAFETY: a plain read of the descriptor's header.
        let columns = unsafe { (*self.descriptor).natts };
        assert!(columns as usize == COLUMNS, "{COLUMNS} values for {columns} columns");
        let mut datums = values.map(|value| value.unwrap_or(pg_sys::Datum::from(0)));
        let mut nulls = values.map(|value| value.is_none());
        // SAFETY: as many values as columns, of the types that sql/vekter.sql declares.
        unsafe {
            pg_sys::tuplestore_putvalues(
                self.store,
                self.descriptor,
                datums.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
    }
}
