//! `vekter_check()`: reports the problems of an index, one per row.

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::target;
use crate::am::{self, Finding};
use crate::pg::error::{OrRaise, SqlError};

#[pg_extern]
fn vekter_check(
    index: pg_sys::Oid,
    heap: bool,
) -> TableIterator<'static, (name!(severity, String), name!(place, String), name!(problem, String))> {
    let findings = find(index, heap).or_raise();
    TableIterator::new(
        findings
            .into_iter()
            .map(|finding| (finding.severity.name().to_string(), finding.place, finding.problem)),
    )
}

fn find(relation: pg_sys::Oid, heap: bool) -> Result<Vec<Finding>, SqlError> {
    let open = target::open_plain_index(relation, "vekter_check")?;
    let index = open.index().oid();
    target::check_maintainer(index)?;
    am::check::check(index, heap)
}
