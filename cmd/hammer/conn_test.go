package main

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

// TestAnswersAreReadAsTheyStand reads two answers from one connection, in each
// form that HTTP/1.1 has for their end.
func TestAnswersAreReadAsTheyStand(t *testing.T) {
	const second = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\ncontent-length: 2\r\n\r\n{}"
	for name, c := range map[string]struct {
		first    string
		accepted bool
		body     string
	}{
		"with a length": {"HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\nContent-Length: 3\r\n\r\n\x08\x01x", true, "\x08\x01x"},
		"in chunks":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\x08\x01\r\n1\r\nx\r\n0\r\n\r\n", true, "\x08\x01x"},
		"empty":         {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, ""},
		"a refusal":     {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x22\x01x", false, "\x22\x01x"},
	} {
		k := &conn{r: bufio.NewReader(strings.NewReader(c.first + second))}
		if a, err := k.read(); err != nil || a.status != http.StatusOK || a.accepted != c.accepted || string(a.body) != c.body {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		if a, err := k.read(); err != nil || a.status != http.StatusTooManyRequests || a.accepted || string(a.body) != "{}" {
			t.Errorf("after one %s: %+v, %v", name, a, err)
		}
	}
	for name, in := range map[string]string{
		"nothing":           "",
		"no answer":         "SSH-2.0-x\r\n",
		"half a status":     "HTTP/1.1 20",
		"no number":         "HTTP/1.1 abc OK\r\n\r\n",
		"no length":         "HTTP/1.1 200 OK\r\n\r\nx",
		"not a length":      "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
		"less than nothing": "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"too long":          "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
		"cut":               "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
		"a cut chunk":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx",
	} {
		if a, err := (&conn{r: bufio.NewReader(strings.NewReader(in))}).read(); err == nil {
			t.Errorf("%s: read as %+v", name, a)
		}
	}
}
