// words: consecutive words of weights, of which 16 bytes are loaded at a time: on a driver that runs on the CPU a load
// costs as much for one word as for four.

struct Five {
    first: vec4<u32>,
    last: u32,
}

fn five_words(at: u32) -> Five {
    let low = weights[at >> 2u];
    let high = weights[(at >> 2u) + 1u];
    let odd = (at & 1u) != 0u;
    let pair = (at & 2u) != 0u;
    let a = select(low, vec4<u32>(low.zw, high.xy), pair);
    let b = select(high.xy, high.zw, pair);
    return Five(select(a, vec4<u32>(a.yzw, b.x), odd), select(b.x, b.y, odd));
}

struct Nine {
    first: vec4<u32>,
    second: vec4<u32>,
    last: u32,
}

fn nine_words(at: u32) -> Nine {
    let low = weights[at >> 2u];
    let middle = weights[(at >> 2u) + 1u];
    let high = weights[(at >> 2u) + 2u];
    let odd = (at & 1u) != 0u;
    let pair = (at & 2u) != 0u;
    let a = select(low, vec4<u32>(low.zw, middle.xy), pair);
    let b = select(middle, vec4<u32>(middle.zw, high.xy), pair);
    let c = select(high.xy, high.zw, pair);
    return Nine(
        select(a, vec4<u32>(a.yzw, b.x), odd),
        select(b, vec4<u32>(b.yzw, c.x), odd),
        select(c.x, c.y, odd),
    );
}
