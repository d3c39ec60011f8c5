//! Submissions that wgpu refuses because a buffer is destroyed or mapped. They return an error, never panic, and leave
//! the lengths on the host unchanged. The no-op device and every adapter run these tests.

use wgpu_kv_cache::{
    BatchedKvCache, CacheConfig, Context, CostModel, DeviceError, Error, Format, HostRows, KvCache, Pair, RowsIn, Side,
    Source, Strides, Write,
};

/// An operation, and which destroyed buffers must make it fail.
struct Case {
    name: &'static str,
    /// Whether it reads or writes planes.
    planes: bool,
    /// Whether it reads or writes lengths on the device.
    lengths: bool,
    run: fn(&mut KvCache) -> Result<(), Error>,
}

const ROWS: [f32; 12] = [7.0; 12];

const CASES: &[Case] = &[
    Case {
        name: "update",
        planes: true,
        lengths: true,
        run: |cache| cache.update(&ROWS[..4], &ROWS[..4], Write::append(1)),
    },
    Case { name: "get", planes: true, lengths: false, run: |cache| cache.get(0..2).map(drop) },
    Case { name: "get_all", planes: true, lengths: false, run: |cache| cache.get_all().map(drop) },
    Case { name: "extract", planes: true, lengths: false, run: |cache| cache.extract(0).map(drop) },
    Case { name: "insert", planes: true, lengths: true, run: |cache| cache.insert(2, 3, &ROWS[..6], &ROWS[..6]) },
    Case { name: "truncate", planes: false, lengths: true, run: |cache| cache.truncate(&[1, 0]) },
    Case { name: "clear_sequence", planes: false, lengths: true, run: |cache| cache.clear_sequence(0) },
    Case { name: "select", planes: true, lengths: true, run: |cache| cache.select(&[1]) },
    Case { name: "reorder", planes: true, lengths: true, run: |cache| cache.reorder(&[1, 0]) },
    Case { name: "repeat", planes: true, lengths: true, run: |cache| cache.repeat(2) },
    Case { name: "copy_sequence", planes: true, lengths: true, run: |cache| cache.copy_sequence(0, 1) },
    Case { name: "copy_range", planes: true, lengths: true, run: |cache| cache.copy_range(0, 1..3, 1, 1) },
    Case { name: "reset", planes: true, lengths: true, run: KvCache::reset },
    Case { name: "read_storage", planes: true, lengths: false, run: |cache| cache.read_storage().map(drop) },
    Case { name: "read_lengths", planes: false, lengths: true, run: |cache| cache.read_lengths().map(drop) },
    #[cfg(feature = "attention")]
    Case {
        name: "attend",
        planes: true,
        lengths: true,
        run: |cache| {
            use wgpu_kv_cache::attention::{Options, attend};
            let queries = vec![1.0f32; cache.config().batch_size as usize * 2];
            attend(cache, &Options::last(1, 1), &queries, None).map(drop)
        },
    },
];

fn config() -> CacheConfig {
    CacheConfig::new(2, 1, 2, 4).max_batch_size(4)
}

/// Two sequences of one head of two elements, with lengths 3 and 1 of 4, and room for four sequences.
fn cache(context: &Context) -> KvCache {
    let mut cache = KvCache::new(context, config()).unwrap();
    cache.update(&ROWS[..], &ROWS[..], Write::append(3).counts(&[3, 1])).unwrap();
    cache
}

fn destroy_planes(cache: &KvCache, side: Side) {
    cache.view().side(side).segments().for_each(|segment| segment.buffer.destroy());
}

fn both_forms(context: &Context) -> [Context; 2] {
    [CostModel::KERNELS, CostModel::COPIES].map(|costs| Context::with_costs(context.device(), context.queue(), costs))
}

fn assert_refused(name: &str, result: Result<(), Error>) {
    let error = result.expect_err(name);
    assert!(matches!(error, Error::Device(DeviceError::Refused { .. })), "{name}: {error:?}");
    assert!(error.to_string().contains("destroyed") || error.to_string().contains("mapped"), "{name}: {error}");
}

/// Runs each operation on a cache whose keys, values or lengths were destroyed through its view.
pub fn own_storage(context: &Context) {
    for context in both_forms(context) {
        for case in CASES {
            for destroyed in ["keys", "values", "lengths"] {
                let mut cache = cache(&context);
                let config = *cache.config();
                match destroyed {
                    "keys" => destroy_planes(&cache, Side::Keys),
                    "values" => destroy_planes(&cache, Side::Values),
                    _ => cache.view().lengths_on_device().buffer.destroy(),
                }
                let result = (case.run)(&mut cache);
                let touches = if destroyed == "lengths" { case.lengths } else { case.planes };
                let name = format!("{} without {destroyed}", case.name);
                if touches {
                    assert_refused(&name, result);
                    assert_eq!((cache.lengths(), cache.config()), (&[3, 1][..], &config), "{name}");
                    assert_eq!(cache.valid_positions(0).unwrap().count(), 3, "{name}");
                } else {
                    result.expect(&name);
                }
            }
        }
    }
    // The device still works.
    cache(context).read_storage().unwrap();
}

/// Runs operations on all layers after the last layer has lost its keys. No layer may change.
pub fn last_layer(context: &Context) {
    type Change = fn(&mut BatchedKvCache) -> Result<(), Error>;
    let changes: [(&str, Change); 6] = [
        ("select", |cache| cache.select(&[1, 0, 0])),
        ("repeat", |cache| cache.repeat(2)),
        ("copy_range", |cache| cache.copy_range(0, 1..3, 1, 1)),
        ("insert", |cache| {
            let rows = || HostRows::from(&ROWS[..6]);
            let both = || Pair { keys: rows(), values: rows() };
            cache.insert(2, 3, &[both(), both()])
        }),
        ("reset", BatchedKvCache::reset),
        ("truncate", |cache| {
            cache.layers()[1].view().lengths_on_device().buffer.destroy();
            cache.truncate(1)
        }),
    ];
    for context in both_forms(context) {
        for (name, change) in changes {
            let mut cache = BatchedKvCache::new(&context, config(), 2).unwrap();
            for layer in 0..2 {
                cache.update(layer, &ROWS[..], &ROWS[..], Write::append(3).counts(&[3, 1])).unwrap();
            }
            // The no-op device runs no kernels, so its state is compared with itself.
            let known = |layer: &KvCache| (layer.read_lengths().unwrap(), layer.read_storage().unwrap());
            let before = known(&cache.layers()[0]);
            destroy_planes(&cache.layers()[1], Side::Keys);
            assert_refused(name, change(&mut cache));
            for layer in cache.layers() {
                assert_eq!((layer.lengths(), layer.config().batch_size), (&[3, 1][..], 2), "{name}");
            }
            assert_eq!(known(&cache.layers()[0]), before, "{name}");
        }
    }
}

/// Uses a source whose buffer was destroyed, or is mapped, after it was bound.
pub fn source(context: &Context) {
    for context in both_forms(context) {
        for mapped in [false, true] {
            let mut cache = cache(&context);
            let rows = context.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 16,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: mapped,
            });
            let rows_in = RowsIn { buffer: &rows, offset: 0, format: Format::F32, strides: Strides::bhtd(1, 1, 2) };
            let source = cache.bind_source(&Source { keys: rows_in, values: rows_in, tokens: 1 }).unwrap();
            if !mapped {
                rows.destroy();
            }
            let before = cache.read_lengths().unwrap();
            assert_refused("warm_up", cache.warm_up(&source));
            assert_eq!(cache.lengths(), [3, 1]);
            assert_eq!(cache.read_lengths().unwrap(), before);
            if mapped {
                rows.unmap();
                cache.warm_up(&source).unwrap();
            }
        }
    }
}
