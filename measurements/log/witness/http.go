package witness

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
)

// Path of the request, below the witness's address.
const Path = "/add-checkpoint"

// Handler serves a witness over HTTP.
func (w *Witness) Handler(logger *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, MaxRequest))
		if err != nil {
			status := http.StatusBadRequest
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				status = http.StatusRequestEntityTooLarge
			}
			http.Error(rw, "reading request", status)
			return
		}
		line, err := w.Add(body)
		if err == nil {
			rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = rw.Write(line) // who has gone asks again
			return
		}
		if c, ok := errors.AsType[*ConflictError](err); ok {
			rw.Header().Set("Content-Type", "text/x.tlog.size")
			rw.WriteHeader(http.StatusConflict)
			fmt.Fprintf(rw, "%d\n", c.Size)
			return
		}
		status := statusOf(err)
		if status == http.StatusInternalServerError {
			logger.Error("witness cannot keep its state", "error", err)
			err = errors.New("the witness cannot keep its state")
		}
		http.Error(rw, err.Error(), status)
	})
	return mux
}

// statusOf is the status that tlog-witness gives an error.
func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrForm):
		return http.StatusBadRequest
	case errors.Is(err, ErrUnknownLog):
		return http.StatusNotFound
	case errors.Is(err, ErrSignature):
		return http.StatusForbidden
	case errors.Is(err, ErrProof):
		return http.StatusUnprocessableEntity
	}
	return http.StatusInternalServerError
}
