//! Caches the description of the relations that a session searches, until an object that their queries name changes.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use pgrx::pg_sys::{self, SysCacheIdentifier};

use crate::functions::target::{self, Target};
use crate::pg::catalogue;
use crate::pg::error::SqlError;
use crate::pg::invalidation::{self, Change, NameKey};

/// Limit on the cached relations.
const MAX_KNOWN: usize = 100;

/// The description of a relation.
pub struct Known {
    pub target: Target,
    /// Relations that its queries name: the index, its partitions, the table ...
    relations: HashSet<pg_sys::Oid>,
    /// ... and operators, functions, types and schemas.
    names: HashSet<NameKey>,
    is_stale: Cell<bool>,
}

thread_local! {
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Rc<Known>>> = RefCell::default();
    /// Counts all invalidations: some arrive while a relation is being looked up.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// The description of a table or an index. Returns the same value until something in it changes.
pub fn describe(relation: pg_sys::Oid) -> Result<Rc<Known>, SqlError> {
    invalidation::listen(forget);
    let known = KNOWN.with_borrow(|known| known.get(&relation).cloned());
    if let Some(known) = known.as_ref().filter(|known| !known.is_stale.get()) {
        return Ok(known.clone());
    }
    let changes = CHANGES.get();
    let found = look_up(relation)?;
    let found = match known {
        // The invalidation was about something else, such as the relation's number of rows or its pages.
        Some(known) if known.is_same(&found) => known,
        _ => Rc::new(found),
    };
    found.is_stale.set(CHANGES.get() != changes);
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(relation, found.clone());
    });
    Ok(found)
}

impl Known {
    fn is_same(&self, other: &Known) -> bool {
        self.target == other.target && self.relations == other.relations && self.names == other.names
    }

    fn is_changed_by(&self, change: Change) -> bool {
        match change {
            Change::Relation(relation) => self.relations.contains(&relation),
            Change::Name(name) => self.names.contains(&name),
            Change::AnyRelation | Change::AnyName => true,
        }
    }
}

/// Classes and oids of the objects whose names, or whose schemas' names, are in the definition of an index.
const NAMED: &str = r#"
WITH named (class, object) AS (
    SELECT d.refclassid, d.refobjid FROM pg_catalog.pg_depend d
     WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = $1
    UNION ALL
    SELECT 'pg_catalog.pg_operator'::pg_catalog.regclass, s.amopopr
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_opclass k ON k.oid = i.indclass[0]
      JOIN pg_catalog.pg_amop s ON s.amopfamily = k.opcfamily AND s.amopstrategy = 1
     WHERE i.indexrelid = $1),
schemas (object) AS (
    SELECT pronamespace FROM pg_catalog.pg_proc WHERE oid IN (SELECT object FROM named)
    UNION SELECT oprnamespace FROM pg_catalog.pg_operator WHERE oid IN (SELECT object FROM named)
    UNION SELECT typnamespace FROM pg_catalog.pg_type WHERE oid IN (SELECT object FROM named)
    UNION SELECT relnamespace FROM pg_catalog.pg_class WHERE oid = $1)
SELECT class, object FROM named
UNION SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, object FROM schemas
"#;

fn look_up(relation: pg_sys::Oid) -> Result<Known, SqlError> {
    let target = target::describe(relation)?;
    let mut names = HashSet::new();
    catalogue::for_each_row(NAMED, &[(pg_sys::OIDOID, target.index.into())], |row| {
        // SAFETY: the query's columns are oids.
        let (class, object): (Option<pg_sys::Oid>, _) = unsafe { row.columns() };
        if let (Some(cache), Some(object)) = (class.and_then(cache_of), object) {
            names.insert(invalidation::name_key(cache, object));
        }
    });
    let relations =
        target.indexes.iter().copied().chain([target.index, target.table_oid, relation]).collect();
    Ok(Known { target, relations, names, is_stale: Cell::new(false) })
}

/// The catalogue cache whose invalidations report changed names of a class of objects.
fn cache_of(class: pg_sys::Oid) -> Option<SysCacheIdentifier::Type> {
    match class {
        pg_sys::ProcedureRelationId => Some(SysCacheIdentifier::PROCOID),
        pg_sys::OperatorRelationId => Some(SysCacheIdentifier::OPEROID),
        pg_sys::TypeRelationId => Some(SysCacheIdentifier::TYPEOID),
        pg_sys::NamespaceRelationId => Some(SysCacheIdentifier::NAMESPACEOID),
        _ => None,
    }
}

/// PostgreSQL sends invalidations in the middle of its work, so this only compares and marks.
fn forget(change: Change) {
    CHANGES.set(CHANGES.get().wrapping_add(1));
    KNOWN.with_borrow(|known| {
        for known in known.values().filter(|known| known.is_changed_by(change)) {
            known.is_stale.set(true);
        }
    });
}
