package modelowner_test

import (
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"cocoon/client/modelowner"
	"cocoon/ratls/modelkey"
)

// stuck is a body that does not come until it is let go.
type stuck struct {
	read chan<- struct{}
	end  <-chan struct{}
}

func (s stuck) Read([]byte) (int, error) {
	s.read <- struct{}{}
	<-s.end
	return 0, io.ErrUnexpectedEOF
}

// TestNoCallerHoldsAllPlaces: bodies that do not come leave places for others.
func TestNoCallerHoldsAllPlaces(t *testing.T) {
	h := newWorld(t).owner.Handler()
	ask := func(from string, body io.Reader) int {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("POST", modelkey.PathRelease, body)
		r.RemoteAddr = from
		h.ServeHTTP(rec, r)
		return rec.Code
	}
	reading, end := make(chan struct{}), make(chan struct{})
	answered := make(chan int)
	var all sync.WaitGroup
	refused := 0
	for i := range modelowner.DefaultConcurrent {
		all.Go(func() {
			code := ask(fmt.Sprintf("[2001:db8::%d]:443", i), stuck{reading, end})
			select {
			case answered <- code:
			case <-end:
			}
		})
		select {
		case <-reading:
		case code := <-answered:
			if refused++; code != 503 {
				t.Errorf("one more of the same network: status %d, want 503", code)
			}
		}
	}
	if code := ask("192.0.2.1:443", strings.NewReader("{}")); code != 400 {
		t.Errorf("another caller, meanwhile: status %d, want 400", code)
	}
	if refused == 0 {
		t.Error("one caller had every place")
	}
	close(end)
	all.Wait()
	if code := ask("[2001:db8::1]:443", strings.NewReader("{}")); code != 400 {
		t.Errorf("afterwards: status %d, want 400", code)
	}
}
