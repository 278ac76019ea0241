package ecsig_test

//lint:file-ignore SA1019 points and scalars chosen at the edges: nothing else gives them

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"math/big"
	"sync"
	"testing"

	"cocoon/verifier/internal/ecsig"
)

// warm returns tables that have one for key.
func warm(t testing.TB, key *ecdsa.PrivateKey) *ecsig.Tables {
	t.Helper()
	tables := ecsig.NewTables(1)
	digest := make([]byte, size(key.Curve))
	r, s := ecsig.Halves(sign(t, key, digest))
	known := ecsig.Know(&key.PublicKey)
	for range ecsig.Uses {
		if tables.Len() != 0 || !tables.Verify(known, digest, r, s) {
			t.Fatal("a good signature is refused, or a table came early")
		}
	}
	if tables.Len() != 1 {
		t.Fatal("there is no table")
	}
	return tables
}

// both verifies with a table and with crypto/ecdsa.
func both(t testing.TB, tables *ecsig.Tables, key *ecdsa.PublicKey, digest, r, s []byte) bool {
	t.Helper()
	want := ecdsa.Verify(key, digest, new(big.Int).SetBytes(r), new(big.Int).SetBytes(s))
	if n := size(key.Curve); len(r) != n || len(s) != n {
		want = false
	}
	if got := tables.Verify(ecsig.Know(key), digest, r, s); got != want {
		t.Errorf("%s key %x %x: digest %x, r %x, s %x: %v with a table, %v without", key.Params().Name, key.X, key.Y, digest, r, s, got, want)
	}
	return want
}

func TestTablesDecideAsTheStandardLibrary(t *testing.T) {
	for _, c := range curves {
		key := newKey(t, c)
		tables := warm(t, key)
		for i := range many(50) {
			digest := sha512.Sum512([]byte{byte(i)})
			for _, d := range [][]byte{digest[:size(c)], digest[:], digest[:20], digest[:size(c)+1], nil} {
				r, s := ecsig.Halves(sign(t, key, d))
				if !both(t, tables, &key.PublicKey, d, r, s) {
					t.Fatal("a signature does not verify")
				}
				negative := new(big.Int).Sub(c.Params().N, new(big.Int).SetBytes(s)).FillBytes(make([]byte, len(s)))
				if !both(t, tables, &key.PublicKey, d, r, negative) { // ECDSA has two for each
					t.Fatal("the other signature does not verify")
				}
				both(t, tables, &key.PublicKey, d, s, r)
				if len(d) > 0 {
					d[i%min(len(d), size(c))] ^= 1 << (i % 8)
					if both(t, tables, &key.PublicKey, d, r, s) {
						t.Fatal("a signature of another digest verifies")
					}
				}
				r[i%len(r)] ^= 1 << (i % 8)
				both(t, tables, &key.PublicKey, d, r, s)
			}
		}
		for name, sig := range degenerate(c) {
			if both(t, tables, &key.PublicKey, make([]byte, size(c)), sig[0], sig[1]) {
				t.Errorf("%s: %s verifies", c.Params().Name, name)
			}
		}
		if tables.Len() != 1 {
			t.Errorf("%d tables for one key", tables.Len())
		}
	}
}

// scalars are those at which windows, carries and additions are at their ends.
func scalars(c elliptic.Curve) []*big.Int {
	n := c.Params().N
	var out []*big.Int
	for _, small := range []int64{1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 2047, 2048, 2080} {
		out = append(out, big.NewInt(small), new(big.Int).Sub(n, big.NewInt(small)))
	}
	half := new(big.Int).Rsh(n, 1)
	out = append(out, half, new(big.Int).Add(half, big.NewInt(1)))
	for _, digit := range []int64{0x1f, 0x20, 0x21, 0x3f} { // each window's
		x := new(big.Int)
		for x.BitLen() < c.Params().BitSize-6 {
			x.Lsh(x, 6).Add(x, big.NewInt(digit))
		}
		out = append(out, x)
	}
	for _, bits := range []uint{6, 12, 100, 252, 255} {
		out = append(out, new(big.Int).Lsh(big.NewInt(1), bits))
	}
	return out
}

// forge returns the digest and the signature whose verification with key takes u1
// times the generator and u2 times the key; nil where that is the point at
// infinity, or r would be zero.
func forge(key *ecdsa.PrivateKey, u1, u2 *big.Int) (digest, r, s []byte) {
	p := key.Params()
	k := new(big.Int).Mul(u2, key.D)
	k.Add(k, u1).Mod(k, p.N)
	if k.Sign() == 0 {
		return nil, nil, nil
	}
	x, _ := key.Curve.ScalarBaseMult(k.Bytes())
	rn := x.Mod(x, p.N)
	if rn.Sign() == 0 {
		return nil, nil, nil
	}
	sn := new(big.Int).ModInverse(u2, p.N)
	sn.Mul(sn, rn).Mod(sn, p.N)
	e := new(big.Int).Mul(u1, sn)
	e.Mod(e, p.N)
	n := size(key.Curve)
	return e.FillBytes(make([]byte, n)), rn.FillBytes(make([]byte, n)), sn.FillBytes(make([]byte, n))
}

// keyOf returns the key of a number.
func keyOf(t testing.TB, c elliptic.Curve, d *big.Int) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.ParseRawPrivateKey(c, d.FillBytes(make([]byte, size(c))))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestTablesAddAtTheEdges has keys whose multiples are the generator's, so that
// sums meet equal points, opposite ones and the point at infinity.
func TestTablesAddAtTheEdges(t *testing.T) {
	skipShort(t)
	for _, c := range curves {
		n := c.Params().N
		all := scalars(c)
		for _, d := range []*big.Int{big.NewInt(1), big.NewInt(2), big.NewInt(3), big.NewInt(64), new(big.Int).Sub(n, big.NewInt(1)), new(big.Int).Sub(n, big.NewInt(2)), all[len(all)-3]} {
			key := keyOf(t, c, d)
			tables := warm(t, key)
			for _, u2 := range all {
				for _, u1 := range []*big.Int{new(big.Int), all[0], all[1], u2, new(big.Int).Sub(n, u2), all[len(all)-1]} {
					digest, r, s := forge(key, u1, u2)
					if r != nil && !both(t, tables, &key.PublicKey, digest, r, s) {
						t.Errorf("%s, key %x: %x G + %x Q does not verify", c.Params().Name, d, u1, u2)
					}
				}
			}
		}
	}
}

// TestTablesRefuseThePointAtInfinity has signatures for which it is the sum.
func TestTablesRefuseThePointAtInfinity(t *testing.T) {
	skipShort(t)
	for _, c := range curves {
		n := c.Params().N
		for _, d := range []*big.Int{big.NewInt(1), big.NewInt(77), new(big.Int).Sub(n, big.NewInt(5))} {
			key := keyOf(t, c, d)
			tables := warm(t, key)
			for _, r := range scalars(c) {
				e := new(big.Int).Mul(r, d)
				e.Neg(e).Mod(e, n)
				for _, s := range scalars(c)[:4] {
					w := size(c)
					if both(t, tables, &key.PublicKey, e.FillBytes(make([]byte, w)), r.FillBytes(make([]byte, w)), s.FillBytes(make([]byte, w))) {
						t.Errorf("%s: r %x of the point at infinity verifies", c.Params().Name, r)
					}
				}
			}
		}
	}
}

// TestTablesReduceTheCoordinate has signatures of points whose coordinate is not
// below the group's order, with the key that follows from such a point: no key
// would ever meet one by chance.
func TestTablesReduceTheCoordinate(t *testing.T) {
	skipShort(t)
	for _, c := range curves {
		p := c.Params()
		found := 0
		for r := int64(1); found < 8; r++ {
			x := new(big.Int).Add(p.N, big.NewInt(r))
			if x.Cmp(p.P) >= 0 {
				t.Fatal("no such point")
			}
			// y² = x³ - 3x + b
			y := new(big.Int).Mul(x, x)
			y.Sub(y, big.NewInt(3)).Mul(y, x).Add(y, p.B).Mod(y, p.P)
			if y.ModSqrt(y, p.P) == nil {
				continue
			}
			found++
			// Q = (s R - e G) / r
			e, s := big.NewInt(12345), big.NewInt(6789)
			sx, sy := c.ScalarMult(x, y, s.Bytes())
			ex, ey := c.ScalarBaseMult(new(big.Int).Sub(p.N, e).Bytes())
			qx, qy := c.Add(sx, sy, ex, ey)
			inverse := new(big.Int).ModInverse(big.NewInt(r), p.N) // r is small
			qx, qy = c.ScalarMult(qx, qy, inverse.Bytes())
			n := size(c)
			key, err := ecsig.Key(append(qx.FillBytes(make([]byte, n)), qy.FillBytes(make([]byte, n))...))
			if err != nil {
				t.Fatal(err)
			}
			digest, rb, sb := e.FillBytes(make([]byte, n)), big.NewInt(r).FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))
			tables := ecsig.NewTables(1)
			for range ecsig.Uses + 1 {
				if !both(t, tables, key, digest, rb, sb) {
					t.Fatalf("%s: point %x does not verify", p.Name, x)
				}
			}
			if tables.Len() != 1 {
				t.Fatal("there is no table")
			}
			if both(t, tables, key, digest, x.FillBytes(make([]byte, n)), sb) {
				t.Error("a number that is not below the order verifies")
			}
		}
	}
}

func TestTablesAreBounded(t *testing.T) {
	tables := ecsig.NewTables(2)
	for range 3 {
		key := newKey(t, elliptic.P256())
		digest := make([]byte, 32)
		r, s := ecsig.Halves(sign(t, key, digest))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range ecsig.Uses {
					if !tables.Verify(ecsig.Know(&key.PublicKey), digest, r, s) || tables.Verify(ecsig.Know(&key.PublicKey), digest, s, r) {
						t.Error("decided wrongly")
					}
				}
			})
		}
		wg.Wait()
	}
	if tables.Len() != 2 {
		t.Errorf("%d tables are kept, of at most 2", tables.Len())
	}
	for _, none := range []*ecsig.Tables{nil, ecsig.NewTables(0), ecsig.NewTables(-1)} {
		key := newKey(t, elliptic.P384())
		r, s := ecsig.Halves(sign(t, key, make([]byte, 48)))
		for range 2 * ecsig.Uses {
			if !none.Verify(ecsig.Know(&key.PublicKey), make([]byte, 48), r, s) {
				t.Fatal("a good signature is refused")
			}
		}
		if none != nil && none.Len() != 0 {
			t.Error("there is a table where none may be")
		}
	}
}

// FuzzTables compares a table's decision with crypto/ecdsa's, for signatures that
// are made of the input and for what the input is itself.
func FuzzTables(f *testing.F) {
	type known struct {
		key    *ecdsa.PrivateKey
		tables *ecsig.Tables
	}
	var keys []known
	for _, c := range curves {
		for _, d := range []int64{1, 5, 1 << 40} {
			key := keyOf(f, c, big.NewInt(d))
			keys = append(keys, known{key, warm(f, key)})
		}
	}
	f.Add(uint8(0), []byte{1}, []byte{2}, []byte{3})
	f.Add(uint8(3), []byte{0xff}, []byte{}, make([]byte, 48))
	f.Fuzz(func(t *testing.T, which uint8, a, b, flip []byte) {
		k := keys[int(which)%len(keys)]
		n, w := k.key.Params().N, size(k.key.Curve)
		u1, u2 := new(big.Int).SetBytes(a), new(big.Int).SetBytes(b)
		u1.Mod(u1, n)
		if u2.Mod(u2, n); u2.Sign() != 0 {
			digest, r, s := forge(k.key, u1, u2)
			if r != nil {
				if !both(t, k.tables, &k.key.PublicKey, digest, r, s) {
					t.Error("a signature does not verify")
				}
				for i, x := range flip {
					s[i%w] ^= x
				}
				both(t, k.tables, &k.key.PublicKey, digest, r, s)
			}
		}
		pad := func(x []byte) []byte { return append(make([]byte, max(0, w-len(x))), x...) }
		both(t, k.tables, &k.key.PublicKey, flip, pad(a), pad(b))
	})
}

func BenchmarkVerify(b *testing.B) {
	for _, c := range curves {
		key := newKey(b, c)
		digest := make([]byte, size(c))
		r, s := ecsig.Halves(sign(b, key, digest))
		known := ecsig.Know(&key.PublicKey)
		for name, tables := range map[string]*ecsig.Tables{"table": warm(b, key), "none": nil} {
			b.Run(c.Params().Name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !tables.Verify(known, digest, r, s) {
						b.Fatal("refused")
					}
				}
			})
		}
	}
}
