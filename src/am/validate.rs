//! `amvalidate`: checks an operator class of this access method.

use pgrx::pg_sys;

use crate::pg::catalogue;

/// Each row is a problem of operator class $1.
const COMPLAINTS: &str = r#"
WITH class AS (
    SELECT c.opcname, c.opcfamily, c.opcintype, c.opckeytype FROM pg_catalog.pg_opclass c WHERE c.oid = $1
)
SELECT pg_catalog.format('operator class "%s" of access method faiss stores a type other than its own', opcname)
  FROM class WHERE opckeytype <> 0 AND opckeytype <> opcintype
UNION ALL
SELECT pg_catalog.format('operator class "%s" of access method faiss lacks support function 1', opcname)
  FROM class WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_amproc p WHERE p.amprocfamily = opcfamily AND p.amproclefttype = opcintype
       AND p.amprocrighttype = opcintype AND p.amprocnum = 1)
UNION ALL
SELECT pg_catalog.format('operator family of "%s" contains function %s with invalid number %s or signature',
                         opcname, p.amproc, p.amprocnum)
  FROM class JOIN pg_catalog.pg_amproc p ON p.amprocfamily = opcfamily
  JOIN pg_catalog.pg_proc f ON f.oid = p.amproc
 WHERE p.amprocnum NOT IN (1, 2) OR f.pronargs <> 0 OR f.prorettype <> 'pg_catalog.int4'::pg_catalog.regtype
UNION ALL
SELECT pg_catalog.format('operator class "%s" of access method faiss lacks an ordering operator', opcname)
  FROM class WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_amop o WHERE o.amopfamily = opcfamily AND o.amoplefttype = opcintype
       AND o.amoprighttype = opcintype AND o.amopstrategy = 1)
UNION ALL
SELECT pg_catalog.format('operator family of "%s" contains operator %s, which is no strategy 1 FOR ORDER BY float_ops',
                         opcname, o.amopopr::pg_catalog.regoperator)
  FROM class JOIN pg_catalog.pg_amop o ON o.amopfamily = opcfamily
  LEFT JOIN pg_catalog.pg_opfamily s ON s.oid = o.amopsortfamily
  JOIN pg_catalog.pg_operator r ON r.oid = o.amopopr
 WHERE o.amopstrategy <> 1 OR o.amoppurpose <> 'o' OR s.opfname IS DISTINCT FROM 'float_ops'
    OR r.oprresult <> 'pg_catalog.float8'::pg_catalog.regtype
"#;

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amvalidate(class: pg_sys::Oid) -> bool {
    let mut complaints = Vec::new();
    catalogue::for_each_row(COMPLAINTS, &[(pg_sys::OIDOID, class.into())], |row| {
        // SAFETY: the query's column is text.
        complaints.extend(unsafe { row.text(1) });
    });
    for complaint in &complaints {
        pgrx::info!("{complaint}");
    }
    complaints.is_empty()
}
