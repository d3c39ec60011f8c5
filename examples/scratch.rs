use std::time::Instant;
use wgpu_kv_cache::{attention::*, *};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let adapter = adapters().unwrap().swap_remove(args[1].parse().unwrap());
    let context = Context::open(&adapter).unwrap();
    let device = context.device();
    let dim: u32 = args[3].parse().unwrap();
    let group: u32 = args[4].parse().unwrap();
    let tokens: u32 = args[5].parse().unwrap();
    let heads = 8;
    let len = 4096;
    for name in args[2].split(',') {
        let format = Format::ALL.into_iter().find(|f| f.to_string() == name).unwrap();
        let mut cache = KvCache::new(&context, CacheConfig::new(1, heads, dim, len).formats(format, format)).unwrap();
        let rows: Vec<f32> = (0..heads * len * dim).map(|i| ((i as f32) * 0.37).sin()).collect();
        cache.update(&rows, &rows, Write::append(len)).unwrap();
        let buffer = |n: u32| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: u64::from(n) * 4,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let (q, o) = (buffer(heads * group * tokens * dim), buffer(heads * group * tokens * dim));
        let dense = |buffer| RowsIn {
            buffer,
            offset: 0,
            format: Format::F32,
            strides: Strides::bhtd(heads * group, tokens, dim),
        };
        let t = Instant::now();
        let att = Attention::new(
            &cache,
            &Options::last(heads * group, tokens),
            &Tensors { queries: dense(&q), output: dense(&o), mask: None },
        )
        .unwrap();
        att.warm_up(&cache).unwrap();
        let made = t.elapsed();
        let (a, b) = (buffer(heads * len * dim), buffer(heads * len * dim));
        let view = cache.view();
        let [from, other] = Side::BOTH.map(|side| view.side(side).segments().next().unwrap().buffer.clone());
        let run = |f: &dyn Fn(&mut wgpu::CommandEncoder)| {
            let mut e = device.create_command_encoder(&Default::default());
            f(&mut e);
            let t = Instant::now();
            context.queue().submit([e.finish()]);
            device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
            t.elapsed().as_secs_f64()
        };
        let (mut ta, mut tc) = (vec![], vec![]);
        for _ in 0..31 {
            ta.push(run(&|e| att.record(&cache, e).unwrap()));
            tc.push(run(&|e| {
                e.copy_buffer_to_buffer(&from, 0, &a, 0, from.size());
                e.copy_buffer_to_buffer(&other, 0, &b, 0, other.size());
            }));
        }
        println!("{name} first {:.2}s warm {made:.2?}", ta[0]);
        ta.sort_by(f64::total_cmp);
        tc.sort_by(f64::total_cmp);
        println!(
            "{name} d{dim} g{group} t{tokens}: {:.2} ms, copy {:.2} ms, ratio {:.2}",
            ta[1] * 1e3,
            tc[1] * 1e3,
            ta[1] / tc[1]
        );
    }
}
