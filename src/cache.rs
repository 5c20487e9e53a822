//! The cache of segment files: one file per segment and server, mapped read-only by every backend.
//!
//! The truth is in the index's pages; a file here is only a copy, so any of them may vanish at any time and costs no
//! more than writing it again. A file is believed only if it is a regular file of the expected length, and if its
//! whole CRC-32C was seen to be right since this server started: the first who opens it reads it all and leaves a
//! *stamp*, a small file beside it that names the server's start, the inode, length and times it verified. Others
//! compare the stamp, and verify again where it differs.
//!
//! Files are written under a temporary name, preallocated (a full disk is an error then, not a SIGBUS later), synced
//! and renamed; they are never truncated or written again, since other backends have them mapped. Who writes a file that
//! it does not need itself leaves the sync to whoever opens it first; without one there is no stamp.
//!
//! Who writes a file holds a lock on it (flock) until others can tell that it is needed: a *claim*. It ends with the process
//! at the latest, so a file without one that nothing names is garbage.
//!
//! Where there is a limit, the files that were used longest ago go first: the time of a stamp says when its file was
//! used last. To remove a file that is mapped is harmless: the map stays, and the space comes back with its end.

mod writer;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

use crate::engine::MappedBytes;
use crate::failpoint;

pub use writer::{CacheWriter, Claim, SyncAt};
use writer::{claim, try_claim};

/// In the data directory. Base backups, pg_rewind and pg_checksums skip names with this beginning (basebackup.c,
/// `excludeDirContents`), and crash recovery does not remove it: the cache stays warm over a restart.
const FOLDER: &str = "pgsql_tmp_vekter";
/// Bytes that are verified between two ticks: milliseconds from memory, a fraction of a second from a slow disk.
const VERIFY_BYTES: usize = 16 << 20;
const STAMP_SUFFIX: &str = ".verified";

/// What a cache file holds. The segment's random id alone makes it unique; the others tell the sweeper whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    pub database: u32,
    pub index: u32,
    pub segment: u128,
}

impl FileKey {
    fn file_name(&self) -> String {
        format!("{}.{}.{:032x}", self.database, self.index, self.segment)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let key = FileKey {
            database: parts.next()?.parse().ok()?,
            index: parts.next()?.parse().ok()?,
            segment: u128::from_str_radix(parts.next()?, 16).ok()?,
        };
        Some(key)
    }
}

/// A mapped cache file; the map ends with the value.
pub struct Mapping {
    start: *mut core::ffi::c_void,
    bytes: usize,
    inode: u64,
}

// SAFETY: the memory is read-only and belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of(file: &File, bytes: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        // SAFETY: a new mapping at an address of the kernel's choice; its length is the file's.
        let start = unsafe {
            mmap(core::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, file.as_fd(), 0)
        }?;
        Ok(Mapping { start, bytes, inode: file.metadata()?.ino() })
    }
}

impl MappedBytes for Mapping {
    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self`; published files are never written or truncated.
        unsafe { core::slice::from_raw_parts(self.start.cast::<u8>(), self.bytes) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `of` with this length, and no borrow of `bytes` outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.start, self.bytes) };
    }
}

/// What a look at a file's bytes shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Missing,
    Right,
    /// Something else is in the file's place, or its bytes are not what they should be.
    Wrong,
}

#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    /// Tells one run of the server from the next.
    server_start: i64,
    /// For all files together; a single larger one is cached all the same.
    limit_bytes: Option<u64>,
}

/// Something in the folder.
struct Entry {
    path: PathBuf,
    key: FileKey,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Segment,
    Stamp,
    /// Unfinished.
    Temporary,
}

impl Cache {
    pub fn new(data_directory: &Path, server_start: i64, limit_bytes: Option<u64>) -> Self {
        Cache { folder: data_directory.join(FOLDER), server_start, limit_bytes }
    }

    /// The file of `key` if it is there and to be trusted; None: write it (again).
    /// `tick` is called now and then while a file is verified.
    pub fn open(
        &self,
        key: &FileKey,
        bytes: u64,
        crc32c: u32,
        tick: &mut dyn FnMut(),
    ) -> Option<Arc<Mapping>> {
        if let Some(mapping) = self.open_verified(key, bytes) {
            return Some(mapping);
        }
        let (mapping, file, stamp) = self.map(key, bytes)?;
        if checksum(mapping.bytes(), tick) != crc32c {
            return None;
        }
        file.sync_data().ok()?;
        self.write_stamp(key, &stamp);
        Some(Arc::new(mapping))
    }

    /// The file of `key` if it is there and somebody has verified it since this server started.
    pub fn open_verified(&self, key: &FileKey, bytes: u64) -> Option<Arc<Mapping>> {
        let (mapping, _, stamp) = self.map(key, bytes)?;
        let is_verified = fs::read_to_string(self.stamp_path(key)).is_ok_and(|known| known == stamp);
        if !is_verified {
            return None;
        }
        self.note_use(key);
        Some(Arc::new(mapping))
    }

    /// Notes that the file of `key` is in use, so that it stays when others have to go.
    pub fn note_use(&self, key: &FileKey) {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
        if self.limit_bytes.is_some() {
            let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
            let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
            // Where the stamp is gone, the file is or will be.
            let _ = utimensat(CWD, self.stamp_path(key), &times, AtFlags::SYMLINK_NOFOLLOW);
        }
    }

    /// The file of `key`, unverified, and the stamp that it should have; None: there is no regular file of this length.
    fn map(&self, key: &FileKey, bytes: u64) -> Option<(Mapping, File, String)> {
        let path = self.folder.join(key.file_name());
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.len() != bytes {
            return None;
        }
        let mapping = Mapping::of(&file, bytes as usize).ok()?;
        Some((mapping, file, self.stamp(&metadata)))
    }

    /// What is in the file of `key`, whatever its stamp says.
    pub fn examine(&self, key: &FileKey, bytes: u64, crc32c: u32, tick: &mut dyn FnMut()) -> Content {
        if fs::symlink_metadata(self.folder.join(key.file_name())).is_err() {
            return Content::Missing;
        }
        let is_right =
            self.map(key, bytes).is_some_and(|(mapping, ..)| checksum(mapping.bytes(), tick) == crc32c);
        if is_right { Content::Right } else { Content::Wrong }
    }

    /// Whether there is a file of `key` with the right length.
    pub fn has(&self, key: &FileKey, bytes: u64) -> bool {
        fs::symlink_metadata(self.folder.join(key.file_name()))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
    }

    /// Whether the file of `key` is the one that is mapped: another one, or none, and the map keeps the space of a file
    /// that was removed.
    pub fn is_current(&self, key: &FileKey, mapping: &Mapping) -> bool {
        let metadata = fs::symlink_metadata(self.folder.join(key.file_name()));
        metadata.is_ok_and(|metadata| metadata.ino() == mapping.inode)
    }

    /// Removes the file of `key`. Whoever has it mapped keeps it so.
    pub fn remove(&self, key: &FileKey) {
        for path in [self.folder.join(key.file_name()), self.stamp_path(key)] {
            // Somebody else may have removed it already; what cannot be removed now is swept later.
            let _ = remove(&path);
        }
    }

    /// Starts a file of `bytes`; nobody sees it before `publish`.
    pub fn create(&self, key: FileKey, bytes: u64) -> io::Result<CacheWriter<'_>> {
        if let Some(limit_bytes) = self.limit_bytes {
            self.shrink_to(limit_bytes.saturating_sub(bytes), 0);
        }
        let path = self.folder.join(format!("{}.tmp.{}", key.file_name(), std::process::id()));
        let file = self.create_file(&path)?;
        CacheWriter::start(self, key, path, file, bytes)
    }

    /// The folder may vanish at any time, also between making it and the file in it.
    fn create_file(&self, path: &Path) -> io::Result<File> {
        const ATTEMPTS: usize = 10;
        let attempt = || -> io::Result<File> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            remove(path)?;
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
            claim(&file);
            // A sweeper may have come between the two.
            if fs::symlink_metadata(path)?.ino() == file.metadata()?.ino() {
                return Ok(file);
            }
            Err(io::ErrorKind::NotFound.into())
        };
        for _ in 1..ATTEMPTS {
            match attempt() {
                // Exists: and was gone when the standard library looked whether it is a folder.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {}
                outcome => return outcome,
            }
        }
        attempt()
    }

    /// Removes every file that `keep` does not want, unless it is younger than `min_age` or claimed; what writers left that
    /// are no more; and what is more than the limit. `keep` answers for the moment at which it is asked: by the time that a
    /// file is found without a claim, its writer may have made it known.
    pub fn sweep(&self, min_age: Duration, mut keep: impl FnMut(&FileKey) -> bool) {
        for Entry { path, key, role } in self.entries() {
            let claimed = match role {
                Role::Temporary => path.clone(),
                Role::Segment | Role::Stamp if keep(&key) || age(&path) < min_age => continue,
                Role::Segment | Role::Stamp => self.folder.join(key.file_name()),
            };
            // Held while the file is removed, so that nobody claims it meanwhile.
            let own = match try_claim(&claimed) {
                Ok(own) => own,
                Err(()) => continue,
            };
            if role == Role::Temporary || !keep(&key) {
                failpoint::reach("cache.sweeping");
                // Another backend may have swept it already; what cannot be removed now is tried again next time.
                let _ = remove(&path);
            }
            drop(own);
        }
        if let Some(limit_bytes) = self.limit_bytes {
            // One that is larger than the limit would otherwise be written again after each sweep.
            self.shrink_to(limit_bytes, 1);
        }
    }

    /// Removes segments' files, those that were used longest ago first, until all files together take no more. Leaves
    /// the `spared` that were used last.
    fn shrink_to(&self, bytes: u64, spared: usize) {
        let (mut segments, mut total) = (Vec::new(), 0);
        for Entry { path, key, role } in self.entries() {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            total += metadata.len();
            if role == Role::Segment {
                let used = fs::symlink_metadata(self.stamp_path(&key)).unwrap_or_else(|_| metadata.clone());
                segments.push((used.modified().unwrap_or(SystemTime::UNIX_EPOCH), key, metadata.len()));
            }
        }
        segments.sort_unstable_by_key(|(used, ..)| *used);
        segments.truncate(segments.len().saturating_sub(spared));
        for (_, key, file_bytes) in segments {
            if total <= bytes {
                break;
            }
            self.remove(&key);
            total = total.saturating_sub(file_bytes);
        }
    }

    /// Bytes of the files of `index`.
    pub fn bytes_of(&self, database: u32, index: u32) -> u64 {
        self.entries()
            .filter(|entry| entry.key.database == database && entry.key.index == index)
            .filter_map(|entry| fs::symlink_metadata(entry.path).ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        fs::read_dir(&self.folder).into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let role = match &name {
                name if name.contains(".tmp.") => Role::Temporary,
                name if name.ends_with(STAMP_SUFFIX) => Role::Stamp,
                _ => Role::Segment,
            };
            Some(Entry { path: entry.path(), key: FileKey::parse(&name)?, role })
        })
    }

    fn stamp_path(&self, key: &FileKey) -> PathBuf {
        self.folder.join(format!("{}{STAMP_SUFFIX}", key.file_name()))
    }

    fn stamp(&self, of: &fs::Metadata) -> String {
        let (mtime, ctime) = ((of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec()));
        format!("{} {} {} {mtime:?} {ctime:?}", self.server_start, of.ino(), of.len())
    }

    /// Without a stamp the next backend verifies once more; so failing to write it is no error.
    fn write_stamp(&self, key: &FileKey, stamp: &str) {
        let temporary =
            self.folder.join(format!("{}{STAMP_SUFFIX}.tmp.{}", key.file_name(), std::process::id()));
        let written = fs::write(&temporary, stamp)
            .and_then(|()| fs::set_permissions(&temporary, Permissions::from_mode(0o600)))
            .and_then(|()| fs::rename(&temporary, self.stamp_path(key)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
    }
}

/// CRC-32C; `tick` is called now and then.
fn checksum(bytes: &[u8], tick: &mut dyn FnMut()) -> u32 {
    bytes.chunks(VERIFY_BYTES).fold(0, |crc, part| {
        tick();
        crc32c::crc32c_append(crc, part)
    })
}

/// Time since the file was written; none if it is gone or of the future.
fn age(path: &Path) -> Duration {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default()
}

/// Removes a file, link or folder; nothing there is fine.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
