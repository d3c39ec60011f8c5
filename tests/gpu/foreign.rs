//! Buffers of another device of the same wgpu instance are refused with an error, without a panic, and nothing changes.

use wgpu_kv_cache::{
    BoundSource, CacheConfig, Context, Destination, DeviceError, Error, Format, KvCache, Pair, RowsIn, Source, Strides,
    Write, adapter_label, adapters,
    attention::{Attention, Mask, Options, Tensors},
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[
    ("foreign::bind_source", bind_source),
    ("foreign::record_insert", record_insert),
    ("foreign::record_get", record_get),
    ("foreign::attention", attention),
    ("foreign::every_adapter_is_of_one_instance", every_adapter_is_of_one_instance),
];

const ROWS: [f32; 12] = [3.0; 12];

fn cache(context: &Context) -> wgpu_kv_cache::Result<KvCache> {
    let mut cache = KvCache::new(context, CacheConfig::new(2, 1, 2, 4))?;
    cache.update(&ROWS[..], &ROWS[..], Write::append(3).counts(&[3, 1]))?;
    Ok(cache)
}

fn buffer(context: &Context) -> wgpu::Buffer {
    context.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("foreign"),
        size: 256,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

fn rows(buffer: &wgpu::Buffer, tokens: u32) -> RowsIn<'_> {
    RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(1, tokens, 2) }
}

/// Two sources: in one the values are foreign, in the other the keys.
fn sources<'a>(own: &'a wgpu::Buffer, foreign: &'a wgpu::Buffer, tokens: u32) -> [Source<'a>; 2] {
    [(own, foreign), (foreign, own)].map(|(keys, values)| Source {
        keys: rows(keys, tokens),
        values: rows(values, tokens),
        tokens,
    })
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("a buffer of another device");
    assert!(
        matches!(error, Error::Device(DeviceError::Refused { .. }))
            && error.to_string().contains("doesn't match Device"),
        "{error:?}"
    );
}

fn bind_source(gpu: &Gpu) -> Outcome {
    let other = Context::open(&gpu.adapter)?;
    let cache = cache(&gpu.context)?;
    let (own, foreign) = (buffer(&gpu.context), buffer(&other));
    for source in sources(&own, &foreign, 1) {
        assert_refused(cache.bind_source(&source));
    }
    let _: BoundSource = cache.bind_source(&Source { keys: rows(&own, 1), values: rows(&own, 1), tokens: 1 })?;
    DONE
}

fn record_insert(gpu: &Gpu) -> Outcome {
    let other = Context::open(&gpu.adapter)?;
    let mut cache = cache(&gpu.context)?;
    let (own, foreign, before) = (buffer(&gpu.context), buffer(&other), cache.read_storage()?);
    for source in sources(&own, &foreign, 2) {
        let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
        assert_refused(cache.record_insert(&mut encoder, 1, 2, &source));
        gpu.context.queue().submit([encoder.finish()]);
    }
    assert_eq!(cache.lengths(), [3, 1]);
    assert_eq!(cache.read_lengths()?, [3, 1]);
    assert_eq!(cache.read_storage()?, before);
    DONE
}

fn record_get(gpu: &Gpu) -> Outcome {
    let other = Context::open(&gpu.adapter)?;
    let cache = cache(&gpu.context)?;
    let (own, foreign) = (buffer(&gpu.context), buffer(&other));
    for (keys, values) in [(&own, &foreign), (&foreign, &own)] {
        let to = || Pair { keys: Destination::new(keys, 0), values: Destination::new(values, 0) };
        let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
        assert_refused(cache.record_get(&mut encoder, 0..2, to()));
        assert_refused(cache.record_get_all(&mut encoder, to()));
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            assert_refused(cache.record_get(&mut pass, 0..2, to()));
        }
        gpu.context.queue().submit([encoder.finish()]);
    }
    DONE
}

fn attention(gpu: &Gpu) -> Outcome {
    let other = Context::open(&gpu.adapter)?;
    let cache = cache(&gpu.context)?;
    let (own, foreign) = ([(); 3].map(|()| buffer(&gpu.context)), buffer(&other));
    for index in 0..3 {
        let pick = |at: usize| if at == index { &foreign } else { &own[at] };
        let mask = Mask { buffer: pick(2), offset: 0, shape: [1, 1, 1, 4] };
        let tensors =
            Tensors { queries: rows(pick(0), 1), output: rows(pick(1), 1), mask: Some(mask), sink_logits: None };
        assert_refused(Attention::new(&cache, &Options::new(1, 1), &tensors));
    }
    DONE
}

/// wgpu identifies buffers by numbers that two instances both use, so a buffer of another instance passes as one's own.
/// `adapters()` must therefore return adapters of the same instance on every call.
fn every_adapter_is_of_one_instance(gpu: &Gpu) -> Outcome {
    let label = adapter_label(&gpu.adapter.get_info());
    let again = adapters()?.into_iter().find(|adapter| adapter_label(&adapter.get_info()) == label);
    let again = again.ok_or("the adapter is not there a second time")?;
    let contexts = [Context::open(&again)?, Context::open(&adapters()?[0])?];
    for other in &contexts {
        let cache = cache(&gpu.context)?;
        let (own, foreign) = (buffer(&gpu.context), buffer(other));
        for source in sources(&own, &foreign, 1) {
            assert_refused(cache.bind_source(&source));
        }
    }
    DONE
}
