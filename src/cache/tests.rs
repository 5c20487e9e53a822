#![allow(clippy::unwrap_used)]
use super::*;
use std::io::Write;

const KEY: FileKey = FileKey { database: 5, index: 16_400, segment: 0xABCD };

/// A cache in a temporary folder, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vekter-cache-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn cache(&self, server_start: i64) -> Cache {
        Cache::new(&self.0, server_start, None)
    }

    fn file(&self) -> PathBuf {
        self.0.join(FOLDER).join(KEY.file_name())
    }

    fn fill(&self, content: &[u8]) {
        let cache = self.cache(1);
        let mut writer = cache.create(KEY, content.len() as u64).unwrap();
        writer.write_all(content).unwrap();
        assert_eq!(writer.publish(SyncAt::Writing).unwrap().0.bytes(), content);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const CONTENT: &[u8] = b"a segment's payload";

fn open(scratch: &Scratch, server_start: i64) -> Option<Arc<Mapping>> {
    scratch.cache(server_start).open(&KEY, CONTENT.len() as u64, crc32c::crc32c(CONTENT), &mut || ())
}

#[test]
fn a_published_file_is_found_by_all_and_readable_by_its_owner_alone() {
    let scratch = Scratch::new("published");
    assert!(open(&scratch, 1).is_none());
    scratch.fill(CONTENT);
    assert_eq!(open(&scratch, 1).unwrap().bytes(), CONTENT);
    assert_eq!(fs::metadata(scratch.file()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(scratch.0.join(FOLDER)).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_file_that_nobody_has_waited_for_is_verified_by_who_opens_it_first() {
    let scratch = Scratch::new("unsynced");
    let cache = scratch.cache(1);
    let mut writer = cache.create(KEY, CONTENT.len() as u64).unwrap();
    writer.write_all(CONTENT).unwrap();
    assert_eq!(writer.publish(SyncAt::FirstUse).unwrap().0.bytes(), CONTENT);
    let verified = || cache.open_verified(&KEY, CONTENT.len() as u64).is_some();
    assert!(!verified());
    assert_eq!(open(&scratch, 1).unwrap().bytes(), CONTENT);
    assert!(verified());
}

#[test]
fn a_damaged_file_is_not_believed_even_with_the_right_length() {
    let scratch = Scratch::new("damaged");
    scratch.fill(CONTENT);
    let mut other = CONTENT.to_vec();
    other[3] ^= 1;
    fs::write(scratch.file(), &other).unwrap();
    assert!(open(&scratch, 1).is_none());
}

#[test]
fn a_file_is_verified_again_by_the_next_server() {
    let scratch = Scratch::new("restart");
    let mut other = CONTENT.to_vec();
    other[3] ^= 1;
    // Publish with a stamp although the content is wrong.
    scratch.fill(&other);
    assert!(open(&scratch, 1).is_some(), "the stamp of this server is believed");
    assert!(open(&scratch, 2).is_none(), "the stamp of the server before is not");
}

#[test]
fn links_folders_and_short_files_in_a_files_place_are_replaced() {
    let scratch = Scratch::new("replaced");
    scratch.fill(CONTENT);
    let elsewhere = scratch.0.join("elsewhere");
    fs::rename(scratch.file(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, scratch.file()).unwrap();
    assert!(open(&scratch, 1).is_none(), "a link");
    scratch.fill(CONTENT);
    assert!(fs::symlink_metadata(scratch.file()).unwrap().is_file());
    fs::remove_file(scratch.file()).unwrap();
    fs::create_dir(scratch.file()).unwrap();
    assert!(open(&scratch, 1).is_none(), "a folder");
    scratch.fill(CONTENT);
    fs::write(scratch.file(), &CONTENT[..5]).unwrap();
    assert!(open(&scratch, 1).is_none(), "cut short");
}

#[test]
fn a_folder_that_vanishes_while_a_file_is_written_costs_only_the_copy() {
    let scratch = Scratch::new("vanished");
    let cache = scratch.cache(1);
    let mut writer = cache.create(KEY, CONTENT.len() as u64).unwrap();
    fs::remove_dir_all(scratch.0.join(FOLDER)).unwrap();
    writer.write_all(CONTENT).unwrap();
    assert_eq!(writer.publish(SyncAt::Writing).unwrap().0.bytes(), CONTENT);
    assert!(open(&scratch, 1).is_none());
}

#[test]
fn an_unpublished_file_leaves_nothing() {
    let scratch = Scratch::new("unpublished");
    drop(scratch.cache(1).create(KEY, 10).unwrap());
    assert_eq!(fs::read_dir(scratch.0.join(FOLDER)).unwrap().count(), 0);
}

#[test]
fn the_sweeper_removes_what_nobody_wants_and_what_dead_writers_left() {
    let scratch = Scratch::new("sweep");
    scratch.fill(CONTENT);
    fs::write(scratch.0.join(FOLDER).join(format!("{}.tmp.4194999", KEY.file_name())), "x").unwrap();
    scratch.cache(1).sweep(Duration::ZERO, |key| *key == KEY);
    assert!(open(&scratch, 1).is_some());
    assert_eq!(scratch.cache(1).entries().count(), 2, "the file and its stamp");
    scratch.cache(1).sweep(Duration::from_secs(60), |_| false);
    assert!(open(&scratch, 1).is_some(), "younger than a minute");
    scratch.cache(1).sweep(Duration::ZERO, |_| false);
    assert_eq!(scratch.cache(1).entries().count(), 0);
}

#[test]
fn the_sweeper_leaves_what_a_live_writer_claims() {
    let scratch = Scratch::new("claimed");
    let cache = scratch.cache(1);
    let mut writer = cache.create(KEY, CONTENT.len() as u64).unwrap();
    writer.write_all(CONTENT).unwrap();
    cache.sweep(Duration::ZERO, |_| false);
    let (mapping, claim) = writer.publish(SyncAt::Writing).unwrap();
    cache.sweep(Duration::ZERO, |_| false);
    assert!(cache.is_current(&KEY, &mapping));
    assert_eq!(cache.entries().count(), 2, "the file and its stamp");
    drop(claim);
    // Another process publishes a manifest between the two calls.
    let mut questions = 0;
    cache.sweep(Duration::ZERO, |_| {
        questions += 1;
        questions % 2 == 0
    });
    assert!(cache.is_current(&KEY, &mapping));
    cache.sweep(Duration::ZERO, |_| false);
    assert_eq!(cache.entries().count(), 0);
    assert!(!cache.is_current(&KEY, &mapping));
}

fn write(cache: &Cache, segment: u128, bytes: usize) {
    let mut writer = cache.create(FileKey { segment, ..KEY }, bytes as u64).unwrap();
    writer.write_all(&vec![7; bytes]).unwrap();
    writer.publish(SyncAt::Writing).unwrap();
}

/// The cached segments, in order.
fn cached(cache: &Cache, segments: u128) -> Vec<u128> {
    (0..segments).filter(|&segment| cache.has(&FileKey { segment, ..KEY }, 10_000)).collect()
}

#[test]
fn beyond_the_limit_the_files_that_were_used_longest_ago_go_first() {
    let scratch = Scratch::new("limit");
    let cache = Cache::new(&scratch.0, 1, Some(40_000));
    // Longer than the resolution of the kernel's file timestamps.
    let moment = || std::thread::sleep(Duration::from_millis(20));
    for segment in 0..3 {
        write(&cache, segment, 10_000);
        moment();
    }
    assert_eq!(cached(&cache, 3), [0, 1, 2]);
    assert!(cache.open_verified(&FileKey { segment: 0, ..KEY }, 10_000).is_some());
    moment();
    write(&cache, 3, 10_000);
    assert_eq!(cached(&cache, 4), [0, 2, 3], "with their stamps, four files are more than the limit");
    moment();
    cache.note_use(&FileKey { segment: 2, ..KEY });
    write(&cache, 4, 10_000);
    assert_eq!(cached(&cache, 5), [2, 3, 4]);
}

#[test]
fn a_file_larger_than_the_limit_is_cached_alone() {
    let scratch = Scratch::new("larger");
    let cache = Cache::new(&scratch.0, 1, Some(15_000));
    write(&cache, 0, 10_000);
    let mapped = cache.open_verified(&FileKey { segment: 0, ..KEY }, 10_000).unwrap();
    write(&cache, 1, 20_000);
    assert!(cached(&cache, 2).is_empty());
    assert!(cache.has(&FileKey { segment: 1, ..KEY }, 20_000));
    assert_eq!(mapped.bytes(), vec![7; 10_000], "a removed file stays mapped");
    cache.sweep(Duration::ZERO, |_| true);
    assert!(cache.has(&FileKey { segment: 1, ..KEY }, 20_000), "a sweep leaves what was used last");
}
