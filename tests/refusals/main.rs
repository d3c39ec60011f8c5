//! Invalid input on wgpu's no-op backend, which validates everything and executes nothing. Each case returns an error
//! that names the rule and the number, and leaves lengths and bytes unchanged.

mod devices;
#[path = "../common/noop.rs"]
mod noop;

use wgpu_kv_cache::{
    BatchedKvCache, BufferError, CacheConfig, ConfigError, Context, Destination, DeviceError, Error, Format,
    HostTensor, KvCache, Pair, Placement, RangeError, ReferenceCache, RowError, RowsIn, SequenceError, Side, Source,
    StepError, Strides, Write, WriteError, compare_tensors, program::Program,
};

use noop::{context, context_with};

/// Two sequences of one head of two elements, with lengths 3 and 1 of 4.
fn cache(context: &Context) -> KvCache {
    let mut cache = KvCache::new(context, CacheConfig::new(2, 1, 2, 4)).unwrap();
    cache.update(&[1.0f32; 12][..], &[2.0f32; 12][..], Write::append(3).counts(&[3, 1])).unwrap();
    cache
}

fn buffer(context: &Context, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    context.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes,
        usage,
        mapped_at_creation: false,
    })
}

/// Runs `refused` and checks the error, its message, and that nothing has changed.
#[expect(clippy::needless_pass_by_value, reason = "the cases read better")]
fn refuses<T>(cache: &mut KvCache, error: Error, words: &str, refused: impl FnOnce(&mut KvCache) -> Result<T, Error>) {
    let before = (cache.lengths().to_vec(), cache.read_storage().unwrap(), cache.read_lengths().unwrap());
    let actual = refused(cache).err().expect("it must be refused");
    assert_eq!(actual, error);
    assert_eq!(actual.to_string(), words);
    assert_eq!((cache.lengths().to_vec(), cache.read_storage().unwrap(), cache.read_lengths().unwrap()), before);
}

#[test]
fn configurations_with_a_zero() {
    let context = context();
    let whole = CacheConfig::new(1, 2, 3, 4);
    for (name, config) in [
        ("batch_size", CacheConfig { batch_size: 0, ..whole }),
        ("num_heads", CacheConfig { num_heads: 0, ..whole }),
        ("head_dim", CacheConfig { head_dim: 0, ..whole }),
        ("value_dim", CacheConfig { value_dim: 0, ..whole }),
        ("max_seq_len", CacheConfig { max_seq_len: 0, ..whole }),
    ] {
        let error = KvCache::new(&context, config).unwrap_err();
        assert_eq!(error, Error::Config(ConfigError::ZeroDimension { name }));
        assert_eq!(error.to_string(), format!("{name} must be at least 1, but is 0"));
        assert_eq!(ReferenceCache::new(config).unwrap_err(), error);
        assert_eq!(config.bytes_per_layer().unwrap_err(), error);
    }
    let error = BatchedKvCache::new(&context, whole, 0).unwrap_err();
    assert_eq!(error, Error::Config(ConfigError::ZeroDimension { name: "num_layers" }));
}

#[test]
fn products_that_overflow() {
    let context = context();
    let planes = CacheConfig::new(1 << 16, 1 << 16, 1, 1);
    let error = KvCache::new(&context, planes).unwrap_err();
    assert_eq!(error.to_string(), "number of planes must fit 32 bits, but 65536 × 65536 does not");
    let plane = CacheConfig::new(1, 1, u32::MAX, u32::MAX);
    assert_eq!(
        plane.validate().unwrap_err().to_string(),
        "bytes of one plane must fit 64 bits, but 4294967295 × 4294967295 × 4 does not"
    );
    let layer = CacheConfig::new(1 << 15, 1 << 15, 1 << 16, 1 << 16);
    let error = layer.validate().unwrap_err();
    assert!(matches!(error, Error::Config(ConfigError::SizeOverflow { what: "bytes of one layer", .. })), "{error}");
    let layers = BatchedKvCache::new(&context, CacheConfig::new(1 << 16, 1 << 15, 1 << 12, 1 << 12), 64).unwrap_err();
    assert!(matches!(layers, Error::Config(ConfigError::SizeOverflow { what: "bytes of all layers", .. })), "{layers}");
}

#[test]
fn more_layers_than_any_model_has() {
    let (context, config) = (context(), CacheConfig::new(1, 1, 1, 1));
    for layers in [65_537, 200_000_000_000, usize::MAX] {
        let words = format!("num_layers must be at most 65536, but is {layers}");
        let error = BatchedKvCache::new(&context, config, layers).map(drop).unwrap_err();
        assert_eq!(error.to_string(), words);
        let failure = Program::new(config, layers).run(&context).unwrap_err();
        assert_eq!(failure.to_string(), format!("operation 0: {words}"));
    }
    let error = BatchedKvCache::with_layers(&context, &vec![config; 65_537]).map(drop).unwrap_err();
    assert_eq!(error.kind(), "too_many_layers");
}

#[test]
fn limits_that_are_too_small() {
    // wgpu's default binding limit is 128 MiB.
    let config = CacheConfig::new(1, 1, 1 << 10, 1 << 16);
    let error = KvCache::new(&context(), config).unwrap_err();
    assert_eq!(
        error,
        Error::Config(ConfigError::PlaneTooLarge { side: Side::Keys, plane_bytes: 1 << 28, limit_bytes: 128 << 20 })
    );
    assert!(error.to_string().contains("takes 268435456 bytes, but a binding holds at most 134217728 here"), "{error}");
    assert!(error.to_string().contains("max_storage_buffer_binding_size"), "{error}");
    let values = CacheConfig::new(1, 1, 4, 1 << 16).value_dim(1 << 10);
    assert!(matches!(
        KvCache::new(&context(), values),
        Err(Error::Config(ConfigError::PlaneTooLarge { side: Side::Values, .. }))
    ));
    // A plane larger than any binding.
    let most =
        wgpu::Limits { max_storage_buffer_binding_size: 1 << 40, max_buffer_size: 1 << 40, ..Default::default() };
    let config = CacheConfig::new(1, 1, 1 << 13, 1 << 16);
    let error = config.required_limits(&most).unwrap_err();
    assert_eq!(
        error,
        Error::Config(ConfigError::PlaneTooLarge {
            side: Side::Keys,
            plane_bytes: 1 << 31,
            limit_bytes: (1 << 31) - 4
        })
    );

    let few = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..Default::default() };
    let error = KvCache::new(&context_with(few), CacheConfig::new(1, 1, 1, 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the device must be requested with max_storage_buffers_per_shader_stage of at least 6, but has 4"
    );
    let narrow = wgpu::Limits { max_compute_invocations_per_workgroup: 128, ..Default::default() };
    let error = KvCache::new(&context_with(narrow), CacheConfig::new(1, 1, 1, 1)).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::DeviceLimit { needed: 256, available: 128, .. })), "{error}");
    let tiny = wgpu::Limits { max_storage_buffer_binding_size: 1024, ..Default::default() };
    let error = KvCache::new(&context_with(tiny), CacheConfig::new(100, 1, 1, 1)).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::DeviceLimit { needed: 5612, available: 1024, .. })), "{error}");
    // The grid stacks a sequence's three runs and one for rows that it does not have.
    let low = wgpu::Limits { max_compute_workgroups_per_dimension: 2, ..Default::default() };
    let ring = CacheConfig::new(1, 1, 1, 0).placement(Placement::Ring { window: 1, sinks: 0, slack: 0 });
    let error = KvCache::new(&context_with(low), ring).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::DeviceLimit { needed: 4, available: 2, .. })), "{error}");
}

#[test]
fn writes_past_the_end() {
    let context = context();
    let mut cache = cache(&context);
    let rows = [7.0f32; 12];
    refuses(
        &mut cache,
        Error::Write(WriteError::WriteBeyondCapacity { sequence: 0, position: 3, count: 3, max_seq_len: 4 }),
        "sequence 0 must end at or before max_seq_len = 4, but 3 tokens at position 3 end at 6",
        |cache| cache.update(&rows[..], &rows[..], Write::append(3)),
    );
    // Only the second sequence breaks the rule.
    refuses(
        &mut cache,
        Error::Write(WriteError::WriteBeyondCapacity { sequence: 1, position: 4, count: 1, max_seq_len: 4 }),
        "sequence 1 must end at or before max_seq_len = 4, but 1 tokens at position 4 end at 5",
        |cache| cache.update(&rows[..4], &rows[..4], Write::at_each(&[0, 4], 1)),
    );
    refuses(
        &mut cache,
        Error::Write(WriteError::WriteBeyondCapacity { sequence: 0, position: u32::MAX, count: 3, max_seq_len: 4 }),
        "sequence 0 must end at or before max_seq_len = 4, but 3 tokens at position 4294967295 end at 4294967298",
        |cache| cache.update(&rows[..], &rows[..], Write::at(u32::MAX, 3)),
    );
    // With a count of 0 nothing is written, so any position is valid.
    cache.update(&rows[..4], &rows[..4], Write::at_each(&[0, 4], 1).counts(&[1, 0])).unwrap();
    assert_eq!(cache.lengths(), [1, 1]);
}

#[test]
fn counts_positions_and_tokens() {
    let context = context();
    let mut cache = cache(&context);
    let rows = [7.0f32; 12];
    refuses(
        &mut cache,
        Error::Write(WriteError::NoTokens),
        "there must be at least 1 token, but there are 0",
        |cache| cache.update(&rows[..0], &rows[..0], Write::append(0)),
    );
    refuses(
        &mut cache,
        Error::Write(WriteError::CountAboveTokens { sequence: 1, count: 2, tokens: 1 }),
        "the count of sequence 1 must be at most tokens = 1, but is 2",
        |cache| cache.update(&rows[..4], &rows[..4], Write::append(1).counts(&[1, 2])),
    );
    refuses(
        &mut cache,
        Error::Sequence(SequenceError::PerSequenceLength { name: "counts", batch_size: 2, actual: 3 }),
        "counts must have one entry per sequence, 2, but has 3",
        |cache| cache.update(&rows[..4], &rows[..4], Write::append(1).counts(&[1, 1, 1])),
    );
    refuses(
        &mut cache,
        Error::Sequence(SequenceError::PerSequenceLength { name: "positions", batch_size: 2, actual: 1 }),
        "positions must have one entry per sequence, 2, but has 1",
        |cache| cache.update(&rows[..4], &rows[..4], Write::at_each(&[0], 1)),
    );
    refuses(
        &mut cache,
        Error::Write(WriteError::SliceLength { side: Side::Keys, expected: 4, actual: 3 }),
        "keys must hold batch × heads × tokens × dim = 4 elements, but hold 3",
        |cache| cache.update(&rows[..3], &rows[..4], Write::append(1)),
    );
    refuses(
        &mut cache,
        Error::Write(WriteError::SliceLength { side: Side::Values, expected: 4, actual: 12 }),
        "values must hold batch × heads × tokens × dim = 4 elements, but hold 12",
        |cache| cache.update(&rows[..4], &rows[..], Write::append(1)),
    );
}

#[test]
fn ranges() {
    let context = context();
    let mut cache = cache(&context);
    let (start, end) = (2, 1);
    refuses(
        &mut cache,
        Error::Range(RangeError::RangeReversed { start, end }),
        "a range must start at or before its end, but 2 > 1",
        |cache| cache.get(start..end),
    );
    refuses(
        &mut cache,
        Error::Range(RangeError::RangeBeyondWritten { end: 4, write_pos: 3 }),
        "a range must end at or before write_pos = 3, but ends at 4",
        |cache| cache.get(0..4),
    );
}

#[test]
fn layers_and_indices_that_do_not_exist() {
    let context = context();
    let mut cache = BatchedKvCache::new(&context, CacheConfig::new(1, 2, 2, 4), 3).unwrap();
    let rows = [7.0f32; 4];
    let error = cache.update(3, &rows[..], &rows[..], Write::append(1)).unwrap_err();
    assert_eq!(error.to_string(), "layer must be below num_layers = 3, but is 3");
    assert_eq!(
        cache.get_all(7).unwrap_err(),
        Error::Sequence(SequenceError::LayerOutOfRange { layer: 7, num_layers: 3 })
    );
    let view = cache.layer(0).unwrap().view().side(Side::Keys);
    assert_eq!(view.row(0, 2, 0).unwrap_err().to_string(), "head must be below 2, but is 2");
    assert_eq!(
        view.row(1, 0, 0).unwrap_err(),
        Error::Sequence(SequenceError::IndexOutOfRange { name: "sequence", index: 1, count: 1 })
    );
    assert_eq!(
        view.slots_at(4).err(),
        Some(Error::Sequence(SequenceError::IndexOutOfRange { name: "position", index: 4, count: 4 }))
    );
}

/// A source of one token for [`cache`]. Tests change single fields of it.
fn source<'a>(keys: &'a wgpu::Buffer, values: &'a wgpu::Buffer) -> Source<'a> {
    let rows_in = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(1, 1, 2) };
    Source { keys: rows_in(keys), values: rows_in(values), tokens: 1 }
}

#[test]
fn sources() {
    let context = context();
    let mut cache = cache(&context);
    let storage = wgpu::BufferUsages::STORAGE;
    let good = buffer(&context, 16, storage);
    let copied = buffer(&context, 16, wgpu::BufferUsages::COPY_SRC);
    let short = buffer(&context, 12, storage);

    refuses(
        &mut cache,
        Error::Buffer(BufferError::BufferUsage {
            side: Side::Values,
            needed: "STORAGE",
            actual: wgpu::BufferUsages::COPY_SRC,
        }),
        "the buffer of values must have STORAGE, but has BufferUsages(COPY_SRC)",
        |cache| cache.bind_source(&source(&good, &copied)),
    );
    refuses(
        &mut cache,
        Error::Buffer(BufferError::BufferRange { side: Side::Keys, needed: 16, actual: 12 }),
        "the buffer of keys must hold 16 bytes for this offset, these strides and tokens (bindings end on a multiple of \
         4), but holds 12",
        |cache| cache.bind_source(&source(&short, &good)),
    );
    let mut misaligned = source(&good, &good);
    misaligned.keys.offset = 2;
    refuses(
        &mut cache,
        Error::Buffer(BufferError::Misaligned { side: Side::Keys, offset: 2, alignment: 4 }),
        "the offset of keys must be a multiple of 4 bytes, but is 2",
        |cache| cache.bind_source(&misaligned),
    );
    let mut beyond = source(&good, &good);
    beyond.values.offset = 4;
    refuses(
        &mut cache,
        Error::Buffer(BufferError::BufferRange { side: Side::Values, needed: 20, actual: 16 }),
        "the buffer of values must hold 20 bytes for this offset, these strides and tokens (bindings end on a multiple \
         of 4), but holds 16",
        |cache| cache.bind_source(&beyond),
    );
    // A stride whose size in bytes overflows.
    let mut wild = source(&good, &good);
    wild.keys.strides.sequence = u64::MAX / 2;
    let error = cache.bind_source(&wild).err();
    assert_eq!(error, Some(Error::Buffer(BufferError::BufferRange { side: Side::Keys, needed: u64::MAX, actual: 16 })));
    let mut none = source(&good, &good);
    none.tokens = 0;
    refuses(
        &mut cache,
        Error::Write(WriteError::NoTokens),
        "there must be at least 1 token, but there are 0",
        |cache| cache.bind_source(&none),
    );
    let many = Source { tokens: u32::MAX, ..source(&good, &good) };
    assert!(matches!(cache.bind_source(&many), Err(Error::Buffer(BufferError::BufferRange { .. }))));

    let own = cache.view().side(Side::Values).segments().next().unwrap().buffer.clone();
    refuses(
        &mut cache,
        Error::Buffer(BufferError::OwnStorage { side: Side::Keys }),
        "the buffer of keys must not be the cache's own storage: one dispatch cannot read and write one buffer",
        |cache| cache.bind_source(&source(&own, &good)),
    );
    let lengths = cache.view().lengths_on_device().buffer.clone();
    assert_eq!(
        cache.bind_source(&source(&good, &lengths)).err(),
        Some(Error::Buffer(BufferError::OwnStorage { side: Side::Values }))
    );
    // An axis of length 1 never uses its stride.
    let mut unused = source(&good, &good);
    unused.keys.strides.token = u64::MAX;
    cache.bind_source(&unused).unwrap();
}

#[test]
fn a_buffer_of_another_device() {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::NOOP,
        backend_options: wgpu::BackendOptions { noop: wgpu::NoopBackendOptions::enabled(), ..Default::default() },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let (context, other) = (Context::open(&adapter).unwrap(), Context::open(&adapter).unwrap());
    let mut cache = cache(&context);
    let foreign = buffer(&other, 16, wgpu::BufferUsages::STORAGE);
    let before = cache.read_storage().unwrap();
    let error = cache.bind_source(&source(&foreign, &foreign)).expect_err("wgpu refuses it");
    assert!(matches!(error, Error::Device(DeviceError::Refused { what: "a bind group", .. })), "{error}");
    assert_eq!(cache.read_storage().unwrap(), before);
    let good = buffer(&context, 16, wgpu::BufferUsages::STORAGE);
    let source = cache.bind_source(&source(&good, &good)).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    cache.record_update(&mut encoder, &source, Write::append(1)).unwrap();
}

#[test]
fn bound_sources() {
    let context = context();
    let mut cache = cache(&context);
    let mut other = KvCache::new(&context, *cache.config()).unwrap();
    let good = buffer(&context, 16, wgpu::BufferUsages::STORAGE);
    let foreign = other.bind_source(&source(&good, &good)).unwrap();
    let own = cache.bind_source(&source(&good, &good)).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    refuses(
        &mut cache,
        Error::Step(StepError::ForeignSource),
        "the source must be bound to the layer that it updates, but belongs to another",
        |cache| cache.record_update(&mut encoder, &foreign, Write::append(1)),
    );
    refuses(
        &mut cache,
        Error::Step(StepError::MoreTokensThanBound { name: "source", tokens: 2, bound: 1 }),
        "the source must have room for the 2 tokens of the step, but was bound for 1",
        |cache| cache.record_update(&mut encoder, &own, Write::at(0, 2)),
    );
    refuses(
        &mut cache,
        Error::Write(WriteError::WriteBeyondCapacity { sequence: 0, position: 4, count: 1, max_seq_len: 4 }),
        "sequence 0 must end at or before max_seq_len = 4, but 1 tokens at position 4 end at 5",
        |cache| cache.record_update(&mut encoder, &own, Write::at(4, 1)),
    );
    refuses(
        &mut cache,
        Error::Write(WriteError::WriteBeyondCapacity { sequence: 1, position: 2, count: 3, max_seq_len: 4 }),
        "sequence 1 must end at or before max_seq_len = 4, but 3 tokens at position 2 end at 5",
        |cache| cache.record_advance(&mut encoder, Write::at_each(&[0, 2], 3)),
    );
    // The encoder is still valid, and the other cache accepts its own source.
    cache.record_update(&mut encoder, &own, Write::append(1)).unwrap();
    other.record_update(&mut encoder, &foreign, Write::append(1)).unwrap();
    context.queue().submit([encoder.finish()]);
    assert_eq!((cache.lengths(), other.lengths()), (&[4, 2][..], &[1, 1][..]));
}

#[test]
fn destinations() {
    let context = context();
    let mut cache = cache(&context);
    let storage = wgpu::BufferUsages::STORAGE;
    let (good, short) = (buffer(&context, 64, storage), buffer(&context, 28, storage));
    let plain = buffer(&context, 64, wgpu::BufferUsages::COPY_DST);
    let own = cache.view().side(Side::Keys).segments().next().unwrap().buffer.clone();
    let to = |keys, key_offset, values, value_offset| Pair {
        keys: Destination::new(keys, key_offset),
        values: Destination::new(values, value_offset),
    };
    let cases = [
        (to(&short, 0, &good, 0), Error::Buffer(BufferError::BufferRange { side: Side::Keys, needed: 32, actual: 28 })),
        (
            to(&good, 0, &good, 36),
            Error::Buffer(BufferError::BufferRange { side: Side::Values, needed: 68, actual: 64 }),
        ),
        (to(&good, 6, &good, 32), Error::Buffer(BufferError::Misaligned { side: Side::Keys, offset: 6, alignment: 4 })),
        (to(&own, 0, &good, 0), Error::Buffer(BufferError::OwnStorage { side: Side::Keys })),
        (to(&good, 0, &good, 16), Error::Buffer(BufferError::DestinationsOverlap { byte: 16 })),
        (
            to(&good, 0, &good, u64::MAX - 3),
            Error::Buffer(BufferError::BufferRange { side: Side::Values, needed: u64::MAX, actual: 64 }),
        ),
        (
            to(&good, 0, &plain, 0),
            Error::Buffer(BufferError::BufferUsage {
                side: Side::Values,
                needed: "STORAGE",
                actual: wgpu::BufferUsages::COPY_DST,
            }),
        ),
    ];
    for (destinations, error) in cases {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        let words = error.to_string();
        refuses(&mut cache, error, &words, |cache| cache.record_get(&mut encoder, 1..3, destinations));
    }
    // Adjacent ranges of one buffer do not overlap.
    let mut encoder = context.device().create_command_encoder(&Default::default());
    cache.record_get(&mut encoder, 1..3, to(&good, 32, &good, 0)).unwrap();
    context.queue().submit([encoder.finish()]);
}

#[test]
fn buffers_larger_than_the_device_allows() {
    // Two planes of 600 KiB fit two segments, but together they exceed a buffer of 1 MiB.
    let limits =
        wgpu::Limits { max_buffer_size: 1 << 20, max_storage_buffer_binding_size: 1 << 20, ..Default::default() };
    let context = context_with(limits);
    let mut cache = KvCache::new(&context, CacheConfig::new(2, 1, 1, 150 << 10)).unwrap();
    assert_eq!(cache.view().side(Side::Keys).segments().len(), 2);
    let rows = vec![1.0f32; 300 << 10];
    let too_large = |what| Error::Device(DeviceError::BufferTooLarge { what, bytes: 1_228_800, limit_bytes: 1 << 20 });
    let words = "uploaded keys takes 1228800 bytes, but the device's max_buffer_size is 1048576; work in smaller ranges \
                 or ask for a larger limit";
    refuses(&mut cache, too_large("uploaded keys"), words, |cache| {
        cache.update(&rows, &rows, Write::append(150 << 10))
    });
    let half = &rows[..150 << 10];
    cache.update(half, half, Write::append(75 << 10)).unwrap();
    cache.update(half, half, Write::append(75 << 10)).unwrap();
    assert_eq!(cache.get_all().unwrap_err(), too_large("copied keys"));
    assert_eq!(cache.get(0..75 << 10).unwrap().keys.shape(), [2, 1, 75 << 10, 1]);
}

#[test]
fn tensors_that_cannot_be_compared() {
    let context = context();
    let tensor =
        |config: CacheConfig| -> HostTensor { KvCache::new(&context, config).unwrap().read_storage().unwrap().keys };
    let config = CacheConfig::new(1, 1, 2, 3);
    let (left, right) = (tensor(config), tensor(config.formats(Format::F16, Format::F16)));
    assert_eq!(
        compare_tensors(0, Side::Keys, &left, &right).unwrap_err().to_string(),
        "tensors must have equal shapes and formats to be compared, but are [1, 1, 3, 2] of f32 and [1, 1, 3, 2] of f16"
    );
    let reference = ReferenceCache::new(CacheConfig::new(1, 1, 2, 4)).unwrap();
    let storage = KvCache::new(&context, config).unwrap().read_storage().unwrap();
    assert!(matches!(reference.compare_storage(0, &storage), Err(Error::Row(RowError::NotComparable { .. }))));
}

#[test]
fn names() {
    assert_eq!("BF16".parse(), Ok(Format::Bf16));
    let error = "q3_k".parse::<Format>().unwrap_err();
    assert_eq!(error.to_string(), "a format must be one of f32, f16, bf16, fp8_e4m3, q8_0, q4_0, but is \"q3_k\"");
    if let Err(error) = wgpu_kv_cache::find_adapter("no such adapter") {
        let text = error.to_string();
        assert!(text.contains("no such adapter") || text.contains("no GPU adapter was found"), "{text}");
    } else {
        panic!("an adapter was found by a name that none has");
    }
}
