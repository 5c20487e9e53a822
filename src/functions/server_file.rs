//! Files on the server, under the rules of COPY: for members of predefined roles, with absolute names.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use crate::pg::error::SqlError;
use crate::pg::owner::current_user;
use crate::pg::text::to_server;

/// Err unless the current user may write files on the server. `instead` is the HINT: what the user can do instead.
pub fn require_writer(instead: &str) -> Result<(), SqlError> {
    require(pg_sys::ROLE_PG_WRITE_SERVER_FILES, "write", instead)
}

/// As `require_writer`, for reading.
pub fn require_reader(instead: &str) -> Result<(), SqlError> {
    require(pg_sys::ROLE_PG_READ_SERVER_FILES, "read", instead)
}

fn require(role: u32, what: &str, instead: &str) -> Result<(), SqlError> {
    // SAFETY: looks catalogue rows up by oid.
    if unsafe { pg_sys::has_privs_of_role(current_user(), pg_sys::Oid::from(role)) } {
        return Ok(());
    }
    let message = format!("permission denied to {what} files on the server");
    Err(SqlError::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .detail(format!("Only roles with privileges of the \"pg_{what}_server_files\" role may {what} them."))
        .hint(instead))
}

/// Bytes read between two checks for interrupts.
const READ_BYTES: u64 = 16 << 20;

/// Reads a whole file. Calls `check_room` with its length before allocating memory.
pub fn read(
    name: &str,
    check_room: &mut dyn FnMut(u64) -> Result<(), SqlError>,
) -> Result<Vec<u8>, SqlError> {
    let path = absolute(name)?;
    let failed = |error: io::Error| file_error("read", name, &error);
    // Checked before opening: opening a pipe would wait for its writer.
    if !fs::metadata(&path).map_err(failed)?.is_file() {
        return Err(not_regular(name));
    }
    let mut file = File::open(&path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    check_room(length)?;
    let mut bytes = Vec::new();
    let room = usize::try_from(length).unwrap_or(usize::MAX);
    bytes.try_reserve_exact(room).map_err(|error| failed(io::Error::other(error)))?;
    while (bytes.len() as u64) < length {
        pgrx::check_for_interrupts!();
        let wanted = READ_BYTES.min(length - bytes.len() as u64);
        let read = Read::by_ref(&mut file).take(wanted).read_to_end(&mut bytes).map_err(failed)?;
        if read == 0 {
            break;
        }
    }
    Ok(bytes)
}

fn absolute(name: &str) -> Result<PathBuf, SqlError> {
    let path = PathBuf::from(OsString::from_vec(to_server(name).into_bytes()));
    if path.is_absolute() {
        return Ok(path);
    }
    let message = format!("\"{name}\" is not an absolute path");
    Err(SqlError::new(Code::ERRCODE_INVALID_NAME, message)
        .hint("Name the file from the server's root folder on."))
}

/// An operating system error for a file, in PostgreSQL's words.
pub fn file_error(what: &str, name: &str, error: &io::Error) -> SqlError {
    use rustix::io::Errno;
    let known = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    let code = if known(Errno::NOSPC) || known(Errno::DQUOT) {
        Code::ERRCODE_DISK_FULL
    } else if known(Errno::NOENT) {
        Code::ERRCODE_UNDEFINED_FILE
    } else if known(Errno::ACCESS) || known(Errno::PERM) || known(Errno::ROFS) {
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE
    } else if known(Errno::ISDIR) || known(Errno::NOTDIR) {
        Code::ERRCODE_WRONG_OBJECT_TYPE
    } else {
        Code::ERRCODE_IO_ERROR
    };
    let reason = error.to_string();
    let reason = reason.split(" (os error").next().unwrap_or(&reason);
    SqlError::new(code, format!("could not {what} file \"{name}\": {reason}"))
}

fn not_regular(name: &str) -> SqlError {
    let message = format!("\"{name}\" is not a regular file");
    SqlError::new(Code::ERRCODE_WRONG_OBJECT_TYPE, message)
}

/// A file that gets its name only when it is complete; if dropped before, it is removed.
pub struct NewFile {
    file: File,
    name: String,
    path: PathBuf,
    temporary: PathBuf,
    is_published: bool,
}

impl NewFile {
    /// Creates a temporary file beside `name`, an absolute path. An existing file of that name stays until `publish`.
    pub fn create(name: &str) -> Result<Self, SqlError> {
        let path = absolute(name)?;
        match fs::symlink_metadata(&path) {
            Ok(metadata) if !metadata.is_file() => return Err(not_regular(name)),
            _ if path.file_name().is_none() => return Err(not_regular(name)),
            _ => {}
        }
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        // Left by a killed process that had the same process id.
        drop(fs::remove_file(&temporary));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let file = file.map_err(|error| file_error("create", name, &error))?;
        Ok(NewFile { file, name: name.to_string(), path, temporary, is_published: false })
    }

    /// Syncs the file and renames it to its final name, readable for everyone like COPY's files.
    pub fn publish(mut self) -> Result<(), SqlError> {
        const MODE: u32 = 0o644;
        let put = || {
            self.file.set_permissions(fs::Permissions::from_mode(MODE))?;
            self.file.sync_all()?;
            fs::rename(&self.temporary, &self.path)?;
            match self.path.parent() {
                Some(folder) => File::open(folder)?.sync_all(),
                None => Ok(()),
            }
        };
        put().map_err(|error| file_error("write", &self.name, &error))?;
        self.is_published = true;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_published {
            drop(fs::remove_file(&self.temporary));
        }
    }
}
