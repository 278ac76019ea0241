package ecsig

import (
	"crypto/elliptic"
	"math/big"
	"sync"

	"filippo.io/nistec"
)

// point is what package nistec has of a curve.
type point[T any] interface {
	*T
	Set(*T) *T
	Add(p, q *T) *T
	Double(*T) *T
	Negate(*T) *T
	ScalarBaseMult([]byte) (*T, error)
	BytesX() ([]byte, error)
}

// curve is one of the two that platforms sign with.
type curve[T any, P point[T]] struct {
	order *big.Int
	size  int // bytes of a coordinate and of a scalar, whose bits the order has all
	fresh func() P
	base  func(w *workspace[T, P], scalar []byte) // sets w.sum to scalar times the generator
	works sync.Pool
}

// workspace is what a verification writes to.
type workspace[T any, P point[T]] struct {
	r, s, x       big.Int
	sum, negative P
	scalar        [maxSize]byte
}

func newCurve[T any, P point[T]](on elliptic.Curve, fresh func() P) *curve[T, P] {
	c := &curve[T, P]{order: on.Params().N, size: on.Params().BitSize / 8, fresh: fresh}
	c.works.New = func() any { return &workspace[T, P]{sum: fresh(), negative: fresh()} }
	return c
}

// Windows: a table has 2^(w-1) multiples for each w bits of a scalar, and as many
// additions are made as it has windows. A bit more makes a verification 2 µs
// faster and the table 70 % larger.
const (
	keyWindow  = 6
	baseWindow = 8 // of P-384's generator, of which there is one
)

var p256 = sync.OnceValue(func() *curve[nistec.P256Point, *nistec.P256Point] {
	c := newCurve(elliptic.P256(), nistec.NewP256Point)
	c.base = func(w *workspace[nistec.P256Point, *nistec.P256Point], scalar []byte) {
		if _, err := w.sum.ScalarBaseMult(scalar); err != nil {
			panic(err) // of the scalar's length alone
		}
	}
	return c
})

// The generic code that nistec has for P-384 takes three times as long for
// multiples of the generator as a table like a key's.
var p384 = sync.OnceValue(func() *curve[nistec.P384Point, *nistec.P384Point] {
	c := newCurve(elliptic.P384(), nistec.NewP384Point)
	g := c.table(c.fresh().SetGenerator(), baseWindow)
	zero := c.fresh()
	c.base = func(w *workspace[nistec.P384Point, *nistec.P384Point], scalar []byte) {
		w.sum.Set(zero)
		g.addMultiple(w, scalar)
	}
	return c
})

// table has the multiples of a point that a product with any scalar is the sum of.
// It is immutable.
type table[T any, P point[T]] struct {
	c      *curve[T, P]
	window int
	points []T // of window i, 1 to 2^(w-1) times 2^(wi) times the point
}

// windows is the number of digits of a scalar: signed, so that the last can carry
// into one that has no bits of its own.
func (c *curve[T, P]) windows(w int) int { return 8*c.size/w + 1 }

func (c *curve[T, P]) table(p P, w int) *table[T, P] {
	n, half := c.windows(w), 1<<(w-1)
	t := &table[T, P]{c: c, window: w, points: make([]T, 0, n*half)}
	for range n {
		multiple := c.fresh().Add(p, c.fresh())
		t.points = append(t.points, *multiple)
		for range half - 1 {
			multiple = P(c.fresh()).Add(multiple, p)
			t.points = append(t.points, *multiple)
		}
		p = P(c.fresh()).Double(multiple)
	}
	return t
}

// addMultiple adds the scalar's product with the table's point to w.sum. Scalars of
// verifications are no secret: which points are read depends on them.
func (t *table[T, P]) addMultiple(w *workspace[T, P], scalar []byte) {
	bits, half := t.window, 1<<(t.window-1)
	carry := 0
	for i := range t.c.windows(bits) {
		digit := carry
		for b := range bits {
			if at := i*bits + b; at < 8*len(scalar) {
				digit += int(scalar[len(scalar)-1-at/8]>>(at%8)&1) << b
			}
		}
		carry = 0
		if digit > half {
			digit -= 2 * half
			carry = 1
		}
		switch {
		case digit > 0:
			w.sum.Add(w.sum, &t.points[i*half+digit-1])
		case digit < 0:
			w.sum.Add(w.sum, w.negative.Negate(&t.points[i*half-digit-1]))
		}
	}
}

// verify is ECDSA's verification (FIPS 186-5, section 6.4.2) with the table's key.
func (t *table[T, P]) verify(digest, rb, sb []byte) bool {
	c := t.c
	w := c.works.Get().(*workspace[T, P])
	defer c.works.Put(w)
	r, s, x := w.r.SetBytes(rb), w.s.SetBytes(sb), &w.x
	if r.Sign() == 0 || s.Sign() == 0 || r.Cmp(c.order) >= 0 || s.Cmp(c.order) >= 0 {
		return false
	}
	inverse := s.ModInverse(s, c.order)
	scalar := w.scalar[:c.size]
	x.SetBytes(digest[:min(len(digest), c.size)])
	x.Mul(x, inverse)
	c.base(w, x.Mod(x, c.order).FillBytes(scalar))
	x.Mul(r, inverse)
	t.addMultiple(w, x.Mod(x, c.order).FillBytes(scalar))
	coordinate, err := w.sum.BytesX()
	if err != nil { // the point at infinity
		return false
	}
	// The order is above half the field's: one subtraction at most.
	if x.SetBytes(coordinate); x.Cmp(c.order) >= 0 {
		x.Sub(x, c.order)
	}
	return x.Cmp(r) == 0
}
