//! Prepared queries through SPI that outlive the call that made them.

use std::ffi::CString;

use pgrx::pg_sys;

/// A saved plan; freed with the value.
pub struct Plan(pg_sys::SPIPlanPtr);

/// A result row, valid while the callback that gets it runs.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Row {
    /// A column's value, from 1 on; None for NULL.
    pub fn datum(&self, column: i32) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: tuple and descriptor are those of the current SPI result.
        let datum = unsafe { pg_sys::SPI_getbinval(self.tuple, self.descriptor, column, &mut is_null) };
        (!is_null).then_some(datum)
    }
}

impl Plan {
    pub fn prepare(query: &str, argument_types: &[pg_sys::Oid]) -> Self {
        let mut types = argument_types.to_vec();
        let query = CString::new(query).unwrap_or_default();
        // SAFETY: strings and arrays outlive the calls; the saved plan outlives the SPI connection.
        unsafe {
            connect();
            let plan = pg_sys::SPI_prepare(query.as_ptr(), types.len() as i32, types.as_mut_ptr());
            if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
                pgrx::error!("could not prepare a query over the table");
            }
            pg_sys::SPI_finish();
            Plan(plan)
        }
    }

    /// Runs the plan read-only, under the snapshot of the calling query.
    pub fn for_each_row(&self, arguments: &[pg_sys::Datum], mut visit: impl FnMut(&Row)) {
        let mut arguments = arguments.to_vec();
        // SAFETY: the plan is alive, with as many parameters as arguments, none of them NULL; the result table stays
        // until SPI_finish.
        unsafe {
            connect();
            let code = pg_sys::SPI_execute_plan(self.0, arguments.as_mut_ptr(), core::ptr::null(), true, 0);
            if code != pg_sys::SPI_OK_SELECT as i32 {
                pgrx::error!("could not run a query over the table");
            }
            let table = pg_sys::SPI_tuptable;
            for at in 0..(*table).numvals as usize {
                visit(&Row { tuple: *(*table).vals.add(at), descriptor: (*table).tupdesc });
            }
            pg_sys::SPI_finish();
        }
    }
}

/// # Safety
/// The caller ends the connection with SPI_finish; an error ends it by itself.
unsafe fn connect() {
    // SAFETY: called inside a transaction.
    if unsafe { pg_sys::SPI_connect() } != pg_sys::SPI_OK_CONNECT as i32 {
        pgrx::error!("could not connect to SPI");
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by SPI_keepplan and freed once.
            unsafe { pg_sys::SPI_freeplan(self.0) };
        }
    }
}
