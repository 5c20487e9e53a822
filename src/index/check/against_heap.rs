//! Compares the index with its table.

use super::{Check, MAX_FINDINGS, checksum, row_name};
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::table::{LinePointers, Table, TableRow};

impl Check {
    /// Checks that each visible row has an entry with its own vector, and that each entry points to a used line
    /// pointer.
    pub(super) fn compare_with(&mut self, table: &mut dyn Table) -> Result<(), IndexError> {
        let meta = crate::index::read_meta(self.rel)?;
        let Some(metric) = crate::engine::Metric::from_code(meta.metric_code()) else {
            return Ok(());
        };
        let mut wrong: Vec<(Tid, &str)> = Vec::new();
        let mut prepared = Vec::new();
        let entries = &self.entries;
        table.scan_visible(&mut |TableRow { tid, vector, .. }| {
            prepared.clear();
            prepared.extend_from_slice(vector);
            if wrong.len() == MAX_FINDINGS || !metric.prepare(&mut prepared) {
                return Ok(());
            }
            match entries.binary_search_by_key(&tid, |entry| entry.tid) {
                Err(_) => wrong.push((tid, "the row is not in the index")),
                Ok(at) if entries[at].row_crc32c.is_some_and(|crc| crc != checksum(&prepared)) => {
                    wrong.push((tid, "the row in the index is not that of the table"));
                }
                Ok(_) => {}
            }
            Ok(())
        })?;
        for (tid, problem) in wrong {
            self.error(row_name(tid), problem);
        }
        self.check_line_pointers(table);
        Ok(())
    }

    /// VACUUM frees a line pointer only after its entry left the index (invariant 2). An entry with a free line pointer
    /// would return whatever row the heap puts there next.
    fn check_line_pointers(&mut self, table: &mut dyn Table) {
        let mut wrong: Vec<(Tid, &str)> = Vec::new();
        let mut page: Option<(u32, Option<LinePointers>)> = None;
        for entry in &self.entries {
            let block = entry.tid.block();
            if page.as_ref().is_none_or(|(known, _)| *known != block) {
                page = Some((block, table.line_pointers(block)));
            }
            let problem = match &page {
                Some((_, None)) => Some("the table has no such page"),
                Some((_, Some(LinePointers::Taken(taken)))) => {
                    let is_taken =
                        entry.tid.offset().checked_sub(1).and_then(|at| taken.get(usize::from(at)));
                    (is_taken != Some(&true)).then_some("the line pointer is free and still in the index")
                }
                _ => None,
            };
            wrong.extend(problem.map(|problem| (entry.tid, problem)));
            if wrong.len() == MAX_FINDINGS {
                break;
            }
        }
        for (tid, problem) in wrong {
            self.error(row_name(tid), problem);
        }
    }
}
