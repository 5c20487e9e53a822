//! The cache of segment files: one file per segment and server, mapped read-only by every backend.
//!
//! The truth is in the index's pages; a file here is only a copy, so any of them may vanish at any time and costs no
//! more than writing it again. A file is believed only if it is a regular file of the expected length, and if its
//! whole CRC-32C was seen to be right since this server started: the first who opens it reads it all and leaves a
//! *stamp*, a small file beside it that names the server's start, the inode, length and times it verified. Others
//! compare the stamp, and verify again where it differs.
//!
//! Files are written under a temporary name, preallocated (a full disk is an error then, not a SIGBUS later), synced
//! and renamed; they are never truncated or written again, since other backends have them mapped.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::engine::MappedBytes;
use crate::failpoint;

/// In the data directory. Base backups, pg_rewind and pg_checksums skip names with this beginning (basebackup.c,
/// `excludeDirContents`), and crash recovery does not remove it: the cache stays warm over a restart.
const FOLDER: &str = "pgsql_tmp_vekter";
/// Bytes that are verified between two ticks: milliseconds from memory, a fraction of a second from a slow disk.
const VERIFY_BYTES: usize = 16 << 20;

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
        Ok(Mapping { start, bytes })
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

pub struct Cache {
    folder: PathBuf,
    /// Tells one run of the server from the next.
    server_start: i64,
}

impl Cache {
    pub fn new(data_directory: &Path, server_start: i64) -> Self {
        Cache { folder: data_directory.join(FOLDER), server_start }
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
        let (mapping, stamp) = self.map(key, bytes)?;
        if checksum(mapping.bytes(), tick) != crc32c {
            return None;
        }
        self.write_stamp(key, &stamp);
        Some(Arc::new(mapping))
    }

    /// The file of `key` if it is there and somebody has verified it since this server started.
    pub fn open_verified(&self, key: &FileKey, bytes: u64) -> Option<Arc<Mapping>> {
        let (mapping, stamp) = self.map(key, bytes)?;
        let is_verified = fs::read_to_string(self.stamp_path(key)).is_ok_and(|known| known == stamp);
        is_verified.then(|| Arc::new(mapping))
    }

    /// The file of `key`, unverified, and the stamp that it should have; None: there is no regular file of this length.
    fn map(&self, key: &FileKey, bytes: u64) -> Option<(Mapping, String)> {
        let path = self.folder.join(key.file_name());
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.len() != bytes {
            return None;
        }
        let mapping = Mapping::of(&file, bytes as usize).ok()?;
        Some((mapping, self.stamp(&metadata)))
    }

    /// What is in the file of `key`, whatever its stamp says.
    pub fn examine(&self, key: &FileKey, bytes: u64, crc32c: u32, tick: &mut dyn FnMut()) -> Content {
        if fs::symlink_metadata(self.folder.join(key.file_name())).is_err() {
            return Content::Missing;
        }
        let is_right =
            self.map(key, bytes).is_some_and(|(mapping, _)| checksum(mapping.bytes(), tick) == crc32c);
        if is_right { Content::Right } else { Content::Wrong }
    }

    /// Whether there is a file of `key` with the right length.
    pub fn has(&self, key: &FileKey, bytes: u64) -> bool {
        fs::symlink_metadata(self.folder.join(key.file_name()))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
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
        let path = self.folder.join(format!("{}.tmp.{}", key.file_name(), std::process::id()));
        let file = self.create_file(&path)?;
        let writer =
            CacheWriter { cache: self, key, path, file: io::BufWriter::new(file), bytes, written: 0 };
        failpoint::reach_io("cache.created")?;
        preallocate(writer.file.get_ref(), bytes)?;
        failpoint::reach_io("cache.preallocated")?;
        Ok(writer)
    }

    /// The folder may vanish at any time, also between making it and the file in it.
    fn create_file(&self, path: &Path) -> io::Result<File> {
        const ATTEMPTS: usize = 10;
        let attempt = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            remove(path)?;
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
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

    /// Removes every file that `keep` does not want, and what writers left that are no more.
    pub fn sweep(&self, mut keep: impl FnMut(&FileKey) -> bool) {
        for (path, key, temporary_of) in self.entries() {
            let wanted = match temporary_of {
                Some(process) => Path::new(&format!("/proc/{process}")).exists(),
                None => keep(&key),
            };
            if !wanted {
                failpoint::reach("cache.sweeping");
                // Another backend may have swept it already; what cannot be removed now is tried again next time.
                let _ = remove(&path);
            }
        }
    }

    /// Bytes of the files of `index`.
    pub fn bytes_of(&self, database: u32, index: u32) -> u64 {
        self.entries()
            .filter(|(_, key, _)| key.database == database && key.index == index)
            .filter_map(|(path, ..)| fs::symlink_metadata(path).ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Path, key and, of an unfinished file, the process that writes it.
    fn entries(&self) -> impl Iterator<Item = (PathBuf, FileKey, Option<u32>)> {
        fs::read_dir(&self.folder).into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let process = name.rsplit_once(".tmp.").and_then(|(_, process)| process.parse().ok());
            Some((entry.path(), FileKey::parse(&name)?, process))
        })
    }

    fn stamp_path(&self, key: &FileKey) -> PathBuf {
        self.folder.join(format!("{}.verified", key.file_name()))
    }

    fn stamp(&self, of: &fs::Metadata) -> String {
        let (mtime, ctime) = ((of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec()));
        format!("{} {} {} {mtime:?} {ctime:?}", self.server_start, of.ino(), of.len())
    }

    /// Without a stamp the next backend verifies once more; so failing to write it is no error.
    fn write_stamp(&self, key: &FileKey, stamp: &str) {
        let temporary = self.folder.join(format!("{}.verified.tmp.{}", key.file_name(), std::process::id()));
        let written = fs::write(&temporary, stamp)
            .and_then(|()| fs::set_permissions(&temporary, Permissions::from_mode(0o600)))
            .and_then(|()| fs::rename(&temporary, self.stamp_path(key)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
    }
}

/// A cache file being written. Dropped unpublished, it leaves nothing.
pub struct CacheWriter<'a> {
    cache: &'a Cache,
    key: FileKey,
    path: PathBuf,
    file: io::BufWriter<File>,
    bytes: u64,
    written: u64,
}

impl CacheWriter<'_> {
    /// Maps the file and makes it visible under its name. The caller vouches for the content.
    pub fn publish(mut self) -> io::Result<Arc<Mapping>> {
        failpoint::reach_io("cache.written")?;
        self.file.flush()?;
        let file = self.file.get_ref();
        if self.written != self.bytes {
            return Err(io::Error::other("the segment is not as long as it was said to be"));
        }
        file.sync_data()?;
        failpoint::reach_io("cache.synced")?;
        let path = self.cache.folder.join(self.key.file_name());
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            fs::remove_dir_all(&path)?;
        }
        let mapping = Mapping::of(file, self.bytes as usize)?;
        match fs::rename(&self.path, &path) {
            // The folder was removed meanwhile: the file serves this backend alone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::new(mapping)),
            renamed => renamed?,
        }
        failpoint::reach_io("cache.renamed")?;
        // The rename changed the file's ctime: the stamp names what others will see.
        self.cache.write_stamp(&self.key, &self.cache.stamp(&file.metadata()?));
        failpoint::reach_io("cache.stamped")?;
        Ok(Arc::new(mapping))
    }
}

impl Write for CacheWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for CacheWriter<'_> {
    fn drop(&mut self) {
        // Gone already after `publish`.
        let _ = fs::remove_file(&self.path);
    }
}

/// CRC-32C; `tick` is called now and then.
fn checksum(bytes: &[u8], tick: &mut dyn FnMut()) -> u32 {
    bytes.chunks(VERIFY_BYTES).fold(0, |crc, part| {
        tick();
        crc32c::crc32c_append(crc, part)
    })
}

fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::io::Errno;
    loop {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Err(Errno::INTR) => {}
            // Not every file system can preallocate; a write that fails later is still an error before the map.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
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
#[path = "cache_tests.rs"]
mod tests;
