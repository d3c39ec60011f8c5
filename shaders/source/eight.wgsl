// eight: eight elements as stored. A 16-bit format fills one vector, `low`; a 32-bit format fills both.

struct Eight {
    low: vec4<u32>,
    high: vec4<u32>,
}
