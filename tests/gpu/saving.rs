//! Sequences as files: saved from caches of every kind and loaded into others, and files that are not what they should
//! be.

use std::io::{Cursor, Write as _};

use wgpu_kv_cache::{
    BatchedKvCache, CacheConfig, Context, Error, Format, HostRows, KvCache, PageError, PagedConfig, PagedKvCache, Pair,
    Placement, SaveError, SequenceError, Write,
    attention::{Options, attend},
    pages::Append,
    save::{Label, SaveSequence, inspect},
};

use crate::{DONE, Gpu, Outcome, Test, rows::numbers};

pub const TESTS: &[Test] = &[
    ("saving::a_loaded_sequence_goes_on_like_the_saved_one", a_loaded_sequence_goes_on_like_the_saved_one),
    ("saving::sequences_move_between_batches_rings_and_pages", sequences_move_between_batches_rings_and_pages),
    ("saving::one_flipped_bit_is_found", one_flipped_bit_is_found),
    ("saving::what_does_not_fit_is_refused", what_does_not_fit_is_refused),
    ("saving::files_are_whole_or_as_they_were", files_are_whole_or_as_they_were),
];

const LABEL: Label<'static> = Label { identity: "model, revision 7", tokens: &[] };

/// Layers of other shapes, formats and placements.
fn layers() -> [CacheConfig; 3] {
    let layer = CacheConfig::new(2, 2, 32, 40).max_batch_size(3);
    [
        layer.formats(Format::F16, Format::Q8_0),
        layer.value_dim(6).formats(Format::Q4_0, Format::Bf16),
        layer.formats(Format::Fp8E4M3, Format::F32).scales(0.5, 1.0).placement(Placement::Ring {
            window: 7,
            sinks: 2,
            slack: 3,
        }),
    ]
}

/// Appends rows to every layer that differ in every layer and in keys and values.
fn update(cache: &mut BatchedKvCache, tokens: u32, seed: u32) -> Result<(), Error> {
    for (layer, config) in (0..).zip(layers()) {
        let rows = |dim: u32, seed| numbers((cache.config().batch_size * 2 * tokens * dim) as usize, seed + 10 * layer);
        let (keys, values) = (rows(config.head_dim, seed), rows(config.value_dim, seed + 5));
        cache.update(layer as usize, &keys, &values, Write::append(tokens))?;
    }
    Ok(())
}

fn filled(context: &Context) -> Result<BatchedKvCache, Error> {
    let mut cache = BatchedKvCache::with_layers(context, &layers())?;
    update(&mut cache, 13, 1)?;
    update(&mut cache, 4, 2)?;
    Ok(cache)
}

/// The rows of a sequence in every layer.
fn rows(cache: &BatchedKvCache, sequence: u32) -> Result<Vec<Vec<u8>>, Error> {
    let mut rows = Vec::new();
    for pair in cache.extract(sequence)? {
        let pair = pair.read()?;
        rows.extend([pair.keys.bytes().to_vec(), pair.values.bytes().to_vec()]);
    }
    Ok(rows)
}

fn a_loaded_sequence_goes_on_like_the_saved_one(gpu: &Gpu) -> Outcome {
    let mut first = filled(&gpu.context)?;
    let tokens: Vec<u32> = (100..117).collect();
    let file = first.save_to(1, Vec::new(), &Label { tokens: &tokens, ..LABEL })?;
    // Without blocking: something else polls the device.
    let again = {
        let label = Label { tokens: &tokens, ..LABEL };
        let mut saving = std::pin::pin!(first.save_to_async(1, Vec::new(), &label));
        loop {
            let _ = gpu.context.device().poll(wgpu::PollType::Poll);
            let waker = std::task::Waker::noop();
            if let std::task::Poll::Ready(file) = saving.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
                break file?;
            }
        }
    };
    assert!(again == file, "the same bytes");
    let saved = inspect(Cursor::new(&file))?;
    assert_eq!((saved.length, saved.tokens.as_deref(), &saved.identity[..]), (17, Some(&tokens[..]), LABEL.identity));
    assert_eq!((saved.layers.len(), saved.layers[2].rows(17), &saved.layers[1].key_format[..]), (3, 9, "q4_0"));

    let mut second = BatchedKvCache::with_layers(&gpu.context, &layers())?;
    let loaded = second.load_from(1, Cursor::new(&file), LABEL.identity)?;
    assert_eq!((loaded.sequence, &loaded.tokens), (1, &tokens));
    assert_eq!((rows(&second, 1)?, second.layers()[0].lengths()), (rows(&first, 1)?, &[0, 17][..]));
    // One more is appended to the batch. Then both go on.
    second.load_from(2, Cursor::new(&file), LABEL.identity)?;
    assert_eq!(rows(&second, 2)?, rows(&first, 1)?);
    second.select(&[1, 2])?;
    first.select(&[1, 1])?;
    update(&mut first, 3, 7)?;
    update(&mut second, 3, 7)?;
    assert_eq!(rows(&second, 0)?, rows(&first, 0)?);
    let options = Options { splits: Some(1), ..Options::last(4, 1) };
    let queries = numbers(2 * 4 * 32, 3);
    let attended = |cache: &BatchedKvCache| attend(&cache.layers()[0], &options, &queries, None);
    assert_eq!(attended(&first)?.bytes(), attended(&second)?.bytes());
    // A cache of one layer is saved likewise.
    let mut alone = KvCache::new(&gpu.context, layers()[0])?;
    alone.insert(0, 3, &numbers(3 * 64, 1), &numbers(3 * 64, 2))?;
    let file = alone.save_to(0, Vec::new(), &LABEL)?;
    let mut other = KvCache::new(&gpu.small, layers()[0])?;
    assert!(other.load_from(0, Cursor::new(&file), LABEL.identity)?.tokens.is_empty());
    assert_eq!(other.extract(0)?.read()?, alone.extract(0)?.read()?);
    DONE
}

fn sequences_move_between_batches_rings_and_pages(gpu: &Gpu) -> Outcome {
    let dense = filled(&gpu.context)?;
    let tokens: Vec<u32> = (0..17).collect();
    let file = dense.save_to(0, Vec::new(), &Label { tokens: &tokens, ..LABEL })?;
    for (context, page_size) in [(&gpu.context, 4), (&gpu.small, 1)] {
        let config = PagedConfig { layers: layers().to_vec(), ..PagedConfig::new(layers()[0], 1, page_size, 120) };
        let mut paged = PagedKvCache::new(context, &config)?;
        let first = paged.load_from(None, Cursor::new(&file), LABEL.identity)?;
        assert_eq!((&first.tokens, paged.sequences().tokens(first.sequence)?), (&tokens, &tokens[..]));
        // Loaded again, it shares what it can; in a namespace, nothing.
        let used = |paged: &PagedKvCache| 120 - paged.sequences().free_pages();
        let before = used(&paged);
        let second = paged.load_from(None, Cursor::new(&file), LABEL.identity)?.sequence;
        let shared = used(&paged) - before;
        let third = paged.load_from(Some("x"), Cursor::new(&file), LABEL.identity)?.sequence;
        assert!(shared <= before && used(&paged) - before - shared == before, "{shared} of {before}");
        for id in [first.sequence, second, third] {
            let again = paged.save_to(id, Vec::new(), &LABEL)?;
            assert!(again == file, "the same bytes, from pages of {page_size}");
        }
        // A token later, from the pages into a batch.
        let next: Vec<_> = (0..)
            .zip(layers())
            .map(|(layer, config)| [numbers(64, 50 + layer), numbers((2 * config.value_dim) as usize, 70 + layer)])
            .collect();
        let next: Vec<_> = next
            .iter()
            .map(|[keys, values]| Pair { keys: HostRows::from(keys), values: HostRows::from(values) })
            .collect();
        paged.append(&[Append::new(third, &[17])], &next)?;
        let longer = paged.save_to(third, Vec::new(), &LABEL)?;
        let mut back = BatchedKvCache::with_layers(&gpu.context, &layers())?;
        assert_eq!(back.load_from(0, Cursor::new(&longer), LABEL.identity)?.tokens, (0..18).collect::<Vec<_>>());
        let of_pages: Vec<_> = paged.extract(third)?.into_iter().map(|rows| rows.read()).collect::<Result<_, _>>()?;
        let of_batch: Vec<_> = back.extract(0)?.into_iter().map(|rows| rows.read()).collect::<Result<_, _>>()?;
        assert_eq!(of_pages, of_batch);
    }
    DONE
}

fn one_flipped_bit_is_found(gpu: &Gpu) -> Outcome {
    let layer = CacheConfig::new(1, 1, 3, 4).formats(Format::F16, Format::F32);
    let mut cache = KvCache::new(&gpu.context, layer)?;
    cache.update(&numbers(6, 1), &numbers(6, 2), Write::append(2))?;
    let file = cache.save_to(0, Vec::new(), &Label { tokens: &[5, 6], ..LABEL })?;
    inspect(Cursor::new(&file))?;
    for bit in 0..8 * file.len() {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(inspect(Cursor::new(&flipped)).is_err(), "bit {bit} of {}", 8 * file.len());
    }
    for length in 0..file.len() {
        match inspect(Cursor::new(&file[..length])) {
            Err(Error::Save(SaveError::Cut { expected, actual })) => {
                assert!(actual == length as u64 && expected > actual);
            }
            other => panic!("{length} bytes: {other:?}"),
        }
    }
    assert!(matches!(inspect(Cursor::new([&file[..], &[0]].concat())), Err(Error::Save(SaveError::Malformed { .. }))));
    // What is refused has changed nothing.
    let mut other = KvCache::new(&gpu.context, layer)?;
    let before = other.read_storage()?;
    let mut flipped = file.clone();
    let last_row = file.len() - 3 * 16 - 1;
    flipped[last_row] ^= 1;
    let expected = SaveError::Checksum { part: "layers.0.values".into() };
    assert_eq!(other.load_from(0, Cursor::new(&flipped), LABEL.identity).map(drop), Err(expected.into()));
    assert_eq!((other.lengths(), other.read_storage()?), (&[0][..], before));
    DONE
}

fn what_does_not_fit_is_refused(gpu: &Gpu) -> Outcome {
    let dense = filled(&gpu.context)?;
    let file = dense.save_to(0, Vec::new(), &LABEL)?;
    let differs = |field: &str, expected: &str, saved: &str| {
        let [field, expected, saved] = [field, expected, saved].map(Into::into);
        Err(Error::Save(SaveError::Differs { field, expected, saved }))
    };
    let load = |layers: &[CacheConfig], place, identity| {
        let mut cache = BatchedKvCache::with_layers(&gpu.context, layers)?;
        let loaded = cache.load_from(place, Cursor::new(&file), identity).map(drop);
        assert!(loaded.is_ok() || cache.layers().iter().all(|layer| layer.lengths().iter().all(|length| *length == 0)));
        loaded
    };
    let own = layers();
    assert_eq!(load(&own, 0, LABEL.identity), Ok(()));
    assert_eq!(load(&own, 0, "another"), differs("identity", "\"another\"", "\"model, revision 7\""));
    assert_eq!(load(&own[..2], 0, LABEL.identity), differs("the number of layers", "2", "3"));
    let with = |change: &dyn Fn(&mut CacheConfig)| {
        let mut layers = own;
        change(&mut layers[1]);
        load(&layers, 0, LABEL.identity)
    };
    assert_eq!(with(&|layer| layer.num_heads = 4), differs("num_heads of layer 1", "4", "2"));
    assert_eq!(with(&|layer| layer.head_dim = 64), differs("head_dim of layer 1", "64", "32"));
    assert_eq!(with(&|layer| layer.value_dim = 7), differs("value_dim of layer 1", "7", "6"));
    assert_eq!(with(&|layer| layer.key_format = Format::Q8_0), differs("key_format of layer 1", "q8_0", "q4_0"));
    assert_eq!(with(&|layer| layer.value_format = Format::F16), differs("value_format of layer 1", "f16", "bf16"));
    assert_eq!(with(&|layer| *layer = layer.scales(2.0, 1.0)), differs("key_scale of layer 1", "2", "1"));
    let ring = |window, sinks| Placement::Ring { window, sinks, slack: 0 };
    let linear = with(&|layer| layer.placement = ring(7, 2));
    assert_eq!(linear, differs("placement of layer 1", "a window of 7 and 2 sinks", "linear"));
    let mut other = own;
    other[2].placement = ring(7, 3);
    let expected = differs("placement of layer 2", "a window of 7 and 3 sinks", "a window of 7 and 2 sinks");
    assert_eq!(load(&other, 0, LABEL.identity), expected);
    other[2].placement = ring(7, 2);
    assert_eq!(load(&other, 0, LABEL.identity), Ok(()), "slack is no property of rows");
    let short: Vec<_> = own.iter().map(|layer| CacheConfig { max_seq_len: 16, ..*layer }).collect();
    assert_eq!(load(&short, 0, LABEL.identity).map_err(|error| error.kind()), Err("write_beyond_capacity".to_owned()));
    // Places and tokens.
    let mut cache = filled(&gpu.context)?;
    let occupied = SaveError::Occupied { sequence: 1, length: 17 };
    assert_eq!(cache.load_from(1, Cursor::new(&file), LABEL.identity).map(drop), Err(occupied.into()));
    let beyond = cache.load_from(3, Cursor::new(&file), LABEL.identity).map(drop);
    assert!(matches!(beyond, Err(Error::Sequence(SequenceError::IndexOutOfRange { index: 3, .. }))), "{beyond:?}");
    let mut paged =
        PagedKvCache::new(&gpu.context, &PagedConfig { layers: own.to_vec(), ..PagedConfig::new(own[0], 1, 4, 14) })?;
    let refused = paged.load_from(None, Cursor::new(&file), LABEL.identity).map(drop);
    assert_eq!(refused, Err(SaveError::NoTokens.into()));
    let tokens: Vec<u32> = (0..17).collect();
    let with_tokens = dense.save_to(0, Vec::new(), &Label { tokens: &tokens, ..LABEL })?;
    // 5 pages for each of the layers that keep all, and 4 of the one with a window: 0 and 1, and 10 to 16.
    paged.load_from(None, Cursor::new(&with_tokens), LABEL.identity)?;
    let full = paged.load_from(Some("x"), Cursor::new(&with_tokens), LABEL.identity).map(drop);
    assert!(matches!(full, Err(Error::Page(PageError::OutOfPages { .. }))), "{full:?}");
    assert_eq!(paged.sequences().counts().referenced, 14 - paged.sequences().free_pages());
    for count in [1, 18] {
        let tokens = vec![1; count];
        let refused = dense.save_to(0, Vec::new(), &Label { tokens: &tokens, ..LABEL }).map(drop);
        assert_eq!(refused, Err(SaveError::TokenCount { length: 17, tokens: count }.into()));
    }
    let empty = BatchedKvCache::with_layers(&gpu.context, &own)?;
    assert_eq!(empty.save_to(0, Vec::new(), &LABEL).map(drop), Err(SaveError::Empty.into()));
    assert!(empty.save_to(9, Vec::new(), &LABEL).is_err());
    DONE
}

/// Takes some bytes and then fails.
struct Full(usize);

impl std::io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn files_are_whole_or_as_they_were(gpu: &Gpu) -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("sequence.safetensors");
    let mut cache = filled(&gpu.context)?;
    cache.save(0, &path, &LABEL)?;
    let before = std::fs::read(&path)?;
    cache.update(0, &numbers(2 * 64, 1), &numbers(2 * 64, 2), Write::append(1))?;
    // Nothing is left beside it, and another takes its place.
    cache.layers()[0].save(0, &path, &LABEL)?;
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
    assert_ne!(std::fs::read(&path)?, before);
    std::fs::File::create(&path)?.write_all(&before)?;
    let mut other = BatchedKvCache::with_layers(&gpu.context, &layers())?;
    other.load(0, &path, LABEL.identity)?;
    // Refused by the system: a folder that there is not, a disk that is full.
    let missing = folder.path().join("none").join("file");
    for outcome in [cache.save(0, &missing, &LABEL), other.load(1, &missing, LABEL.identity).map(drop)] {
        match outcome {
            Err(Error::Save(SaveError::Io { during, .. })) => assert!(during.contains("none"), "{during}"),
            other => panic!("{other:?}"),
        }
    }
    for room in [0, 100, before.len() - 1] {
        let refused = cache.save_to(0, Full(room), &LABEL).map(drop);
        assert!(matches!(refused, Err(Error::Save(SaveError::Io { .. }))), "{room}: {refused:?}");
    }
    // A sequence that cannot be saved leaves the old file.
    assert!(cache.save(7, &path, &LABEL).is_err());
    assert_eq!((std::fs::read(&path)?, std::fs::read_dir(folder.path())?.count()), (before, 1));
    DONE
}
