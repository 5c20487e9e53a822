//! The cache of segment files: one file per segment and server, mapped read-only by every backend.
//!
//! The index's pages are authoritative; a cache file is only a copy, so it may vanish at any time and is then written
//! again. A file is trusted only if it is a regular file of the expected length and its CRC-32C has been verified since
//! this server started. The first backend to open a file reads all of it and writes a *stamp*: a small file beside it
//! with the server's start time and the inode, length and times of the verified file. Other backends compare the stamp,
//! and verify again if it differs.
//!
//! Files are written under a temporary name, preallocated (so that a full disk is an error now, not a SIGBUS later),
//! synced and renamed. They are never truncated or rewritten, because other backends have them mapped. A writer that
//! does not need the file itself leaves the sync to the first backend that opens it; until the sync there is no stamp.
//!
//! A writer holds a lock on its file (flock), a *claim*, until other processes can tell that the file is needed. The
//! lock ends with the process at the latest, so a file that is neither claimed nor named by a manifest is garbage.
//!
//! If the cache has a limit, the least recently used files are removed first; a stamp's modification time is the time
//! of the last use. Removing a mapped file is harmless: the mapping stays valid, and the disk space is freed when it
//! ends.

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

/// Name of the folder in the data directory. Base backups, pg_rewind and pg_checksums skip names with this prefix
/// (basebackup.c, `excludeDirContents`), and crash recovery does not remove it, so the cache survives a restart.
const FOLDER: &str = "pgsql_tmp_vekter";
/// Bytes verified between two ticks: milliseconds from memory, a fraction of a second from a slow disk.
const VERIFY_BYTES: usize = 16 << 20;
const STAMP_SUFFIX: &str = ".verified";

/// Identity of a cache file. The segment's random id alone is unique; the sweeper uses the other two to find its index.
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

/// A mapped cache file; dropping it unmaps the file.
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

/// Result of examining a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Missing,
    Right,
    /// The path is not a regular file of the right length, or the checksum is wrong.
    Wrong,
}

#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    /// Start time of the server, to recognise stamps of earlier runs.
    server_start: i64,
    /// Limit for all files together; a single larger file is cached anyway.
    limit_bytes: Option<u64>,
}

/// An entry of the folder.
struct FolderEntry {
    path: PathBuf,
    key: FileKey,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Segment,
    Stamp,
    /// A file being written.
    Temporary,
}

impl Cache {
    pub fn new(data_directory: &Path, server_start: i64, limit_bytes: Option<u64>) -> Self {
        Cache { folder: data_directory.join(FOLDER), server_start, limit_bytes }
    }

    /// Opens the file of `key` if it exists and is valid; None if it must be written (again). `tick` is called from
    /// time to time during verification.
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

    /// Opens the file of `key` if it exists and has been verified since this server started.
    pub fn open_verified(&self, key: &FileKey, bytes: u64) -> Option<Arc<Mapping>> {
        let (mapping, _, stamp) = self.map(key, bytes)?;
        let is_verified = fs::read_to_string(self.stamp_path(key)).is_ok_and(|known| known == stamp);
        if !is_verified {
            return None;
        }
        self.note_use(key);
        Some(Arc::new(mapping))
    }

    /// Records that the file of `key` was used now.
    pub fn note_use(&self, key: &FileKey) {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
        if self.limit_bytes.is_some() {
            let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
            let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
            // If the stamp is gone, so is the file, or soon will be.
            let _ = utimensat(CWD, self.stamp_path(key), &times, AtFlags::SYMLINK_NOFOLLOW);
        }
    }

    /// Maps the file of `key` without verification, and returns the stamp it should have; None if there is no regular
    /// file of this length.
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

    /// Verifies the file of `key`, whatever its stamp says.
    pub fn examine(&self, key: &FileKey, bytes: u64, crc32c: u32, tick: &mut dyn FnMut()) -> Content {
        if fs::symlink_metadata(self.folder.join(key.file_name())).is_err() {
            return Content::Missing;
        }
        let is_right =
            self.map(key, bytes).is_some_and(|(mapping, ..)| checksum(mapping.bytes(), tick) == crc32c);
        if is_right { Content::Right } else { Content::Wrong }
    }

    /// Whether a file of `key` with this length exists.
    pub fn has(&self, key: &FileKey, bytes: u64) -> bool {
        fs::symlink_metadata(self.folder.join(key.file_name()))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
    }

    /// Whether `mapping` is of the current file of `key`. If not, it holds the disk space of a removed file.
    pub fn is_current(&self, key: &FileKey, mapping: &Mapping) -> bool {
        let metadata = fs::symlink_metadata(self.folder.join(key.file_name()));
        metadata.is_ok_and(|metadata| metadata.ino() == mapping.inode)
    }

    /// Removes the file of `key`. Existing mappings stay valid.
    pub fn remove(&self, key: &FileKey) {
        for path in [self.folder.join(key.file_name()), self.stamp_path(key)] {
            // Another process may have removed it already; if it cannot be removed now, a later sweep will.
            let _ = remove(&path);
        }
    }

    /// Starts to write a file of `bytes`; it becomes visible with `publish`.
    pub fn create(&self, key: FileKey, bytes: u64) -> io::Result<CacheWriter<'_>> {
        if let Some(limit_bytes) = self.limit_bytes {
            self.shrink_to(limit_bytes.saturating_sub(bytes), 0);
        }
        let path = self.folder.join(format!("{}.tmp.{}", key.file_name(), std::process::id()));
        let file = self.create_file(&path)?;
        CacheWriter::start(self, key, path, file, bytes)
    }

    /// Creates a file, and the folder if necessary. The folder may vanish at any time, even between the two steps.
    fn create_file(&self, path: &Path) -> io::Result<File> {
        const ATTEMPTS: usize = 10;
        let attempt = || -> io::Result<File> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            remove(path)?;
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
            claim(&file);
            // A sweep may have removed the file before it was locked.
            if fs::symlink_metadata(path)?.ino() == file.metadata()?.ino() {
                return Ok(file);
            }
            Err(io::ErrorKind::NotFound.into())
        };
        for _ in 1..ATTEMPTS {
            match attempt() {
                // EEXIST: the folder vanished again before the standard library checked that it is a folder.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {}
                outcome => return outcome,
            }
        }
        attempt()
    }

    /// Removes every file for which `keep` returns false, unless it is younger than `min_age` or claimed; then
    /// temporary files of processes that are gone, and the least recently used files above the limit. `keep` must
    /// answer for the moment of the call: when a file is found unclaimed, its writer may just have published it.
    pub fn sweep(&self, min_age: Duration, mut keep: impl FnMut(&FileKey) -> bool) {
        for FolderEntry { path, key, role } in self.entries() {
            let claimed = match role {
                Role::Temporary => path.clone(),
                Role::Segment | Role::Stamp if keep(&key) || age(&path) < min_age => continue,
                Role::Segment | Role::Stamp => self.folder.join(key.file_name()),
            };
            // The claim is held during the removal, so that no other process can claim the file.
            let own = match try_claim(&claimed) {
                Ok(own) => own,
                Err(()) => continue,
            };
            if role == Role::Temporary || !keep(&key) {
                failpoint::reach("cache.sweeping");
                // Another process may have swept it already; if it cannot be removed now, the next sweep will.
                let _ = remove(&path);
            }
            drop(own);
        }
        if let Some(limit_bytes) = self.limit_bytes {
            // Spare the last used file: one larger than the limit would otherwise be rewritten after each sweep.
            self.shrink_to(limit_bytes, 1);
        }
    }

    /// Removes the least recently used segment files until the total is within `bytes`. Keeps the `spared` most
    /// recently used.
    fn shrink_to(&self, bytes: u64, spared: usize) {
        let (mut segments, mut total) = (Vec::new(), 0);
        for FolderEntry { path, key, role } in self.entries() {
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

    /// Total bytes of the files of `index`.
    pub fn bytes_of(&self, database: u32, index: u32) -> u64 {
        self.entries()
            .filter(|entry| entry.key.database == database && entry.key.index == index)
            .filter_map(|entry| fs::symlink_metadata(entry.path).ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    fn entries(&self) -> impl Iterator<Item = FolderEntry> {
        fs::read_dir(&self.folder).into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let role = match &name {
                name if name.contains(".tmp.") => Role::Temporary,
                name if name.ends_with(STAMP_SUFFIX) => Role::Stamp,
                _ => Role::Segment,
            };
            Some(FolderEntry { path: entry.path(), key: FileKey::parse(&name)?, role })
        })
    }

    fn stamp_path(&self, key: &FileKey) -> PathBuf {
        self.folder.join(format!("{}{STAMP_SUFFIX}", key.file_name()))
    }

    fn stamp(&self, of: &fs::Metadata) -> String {
        let (mtime, ctime) = ((of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec()));
        format!("{} {} {} {mtime:?} {ctime:?}", self.server_start, of.ino(), of.len())
    }

    /// A failure is not an error: without a stamp, the next backend verifies again.
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

/// Computes CRC-32C; calls `tick` from time to time.
fn checksum(bytes: &[u8], tick: &mut dyn FnMut()) -> u32 {
    bytes.chunks(VERIFY_BYTES).fold(0, |crc, part| {
        tick();
        crc32c::crc32c_append(crc, part)
    })
}

/// Time since the file was written; zero if it is gone or its time is in the future.
fn age(path: &Path) -> Duration {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default()
}

/// Removes a file, link or folder; it may be missing.
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
