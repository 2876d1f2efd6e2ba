// numpy.random.RandomState, as far as drawing faces takes it: with the same seed the same numbers.
// MT19937 by Matsumoto and Nishimura (1998), with their initialisations of 2002.

const N = 624, M = 397;

export class RandomState {
    // seed: an integer from 0 to 2**32 - 1, or an array of such, which numpy mixes otherwise.
    constructor(seed) {
        this.state = new Uint32Array(N);
        this.position = N;
        if (Array.isArray(seed)) this.mix(seed);
        else this.fill(seed);
    }

    fill(seed) {                                                    // init_genrand
        const s = this.state;
        s[0] = seed;
        for (let i = 1; i < N; i++) s[i] = Math.imul(1812433253, s[i - 1] ^ s[i - 1] >>> 30) + i;
    }

    mix(key) {                                                      // init_by_array
        const s = this.state;
        this.fill(19650218);
        let i = 1;
        const step = (factor, add) => {
            s[i] = (s[i] ^ Math.imul(s[i - 1] ^ s[i - 1] >>> 30, factor)) + add;
            if (++i === N) {
                s[0] = s[N - 1];
                i = 1;
            }
        };
        for (let k = 0; k < Math.max(N, key.length); k++) {
            const j = k % key.length;
            step(1664525, key[j] + j);
        }
        for (let k = 1; k < N; k++) step(1566083941, -i);
        s[0] = 0x80000000;
    }

    twist() {
        const s = this.state;
        for (let i = 0; i < N; i++) {
            const y = s[i] & 0x80000000 | s[(i + 1) % N] & 0x7fffffff;
            s[i] = s[(i + M) % N] ^ y >>> 1 ^ (y & 1 ? 0x9908b0df : 0);
        }
        this.position = 0;
    }

    bits() {                                                        // 32 of them
        if (this.position === N) this.twist();
        let y = this.state[this.position++];
        y ^= y >>> 11;
        y ^= y << 7 & 0x9d2c5680;
        y ^= y << 15 & 0xefc60000;
        return (y ^ y >>> 18) >>> 0;
    }

    // n doubles in [-1, 1), of 53 bits each: uniform(-1, 1, n).
    uniform(n) {
        return Float64Array.from({length: n}, () => {
            const high = this.bits() >>> 5, low = this.bits() >>> 6;
            return -1 + 2 * ((high * 67108864 + low) / 9007199254740992);
        });
    }

    // An integer in [0, n): randint(n).
    integer(n) {
        if (n === 1) return 0;                                      // numpy draws nothing for it
        const mask = 2 ** (32 - Math.clz32(n - 1)) - 1;
        let value;
        do value = (this.bits() & mask) >>> 0; while (value >= n);
        return value;
    }
}
