package server

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/workload-sts/sts/gen/openapi"
)

// openAPIMaxAge is how long the description of the API may be cached: it changes
// with the program alone.
const openAPIMaxAge = time.Hour

// openAPI answers with the description of the HTTP face, whose server is the one
// that is asked.
func openAPI(issuer string, registers bool) http.Handler {
	doc := page{rendered: newRendered(describing(openapi.Document, issuer, registers)), maxAge: openAPIMaxAge}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if readable(w, r) {
			doc.serve(w, r)
		}
	})
}

// describing puts the URL of the service into its description, and takes the
// registration of clients out if there is none.
func describing(document []byte, issuer string, registers bool) []byte {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(document, &members); err != nil {
		panic(err) // it is part of the program
	}
	servers, err := json.Marshal([]map[string]string{{"url": issuer}})
	if err != nil {
		panic(err) // strings always encode
	}
	members["servers"] = servers
	if !registers {
		var paths map[string]json.RawMessage
		if err := json.Unmarshal(members["paths"], &paths); err != nil {
			panic(err) // it is part of the program
		}
		maps.DeleteFunc(paths, func(path string, _ json.RawMessage) bool { return strings.HasPrefix(path, registrationPath) })
		if members["paths"], err = json.Marshal(paths); err != nil {
			panic(err) // it was decoded from JSON
		}
	}
	out, err := json.Marshal(members)
	if err != nil {
		panic(err) // it was decoded from JSON
	}
	return out
}
