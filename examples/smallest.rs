//! The smallest use of the cache: one layer, a prompt, one more token, and everything read back.

use wgpu_kv_cache::{CacheConfig, Context, Format, KvCache, Write, adapters};

fn main() -> wgpu_kv_cache::Result<()> {
    let context = Context::open(&adapters()?[0])?;
    // One sequence, 8 KV heads of 64, room for 1024 tokens.
    let config = CacheConfig::new(1, 8, 64, 1024).formats(Format::F16, Format::F16);
    let mut cache = KvCache::new(&context, config)?;

    let prompt = vec![0.5f32; 8 * 10 * 64]; // [batch 1, head 8, token 10, dim 64]
    cache.update(&prompt, &prompt, Write::append(10))?;
    let token = vec![0.25f32; 8 * 64];
    cache.update(&token, &token, Write::append(1))?;

    let read = cache.get(9..11)?.read()?;
    println!("positions 9 and 10 of head 0: {} and {}", read.keys.to_f32()[0], read.keys.to_f32()[64]);
    println!("{} tokens, {} bytes of {}", cache.write_pos(), cache.memory_used_bytes(), cache.memory_allocated_bytes());
    Ok(())
}
