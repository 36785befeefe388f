package server

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/workload-sts/sts/gen/openapi"
)

// openAPIMaxAge is how long the description of the API may be cached: it changes
// with the program alone.
const openAPIMaxAge = time.Hour

// openAPI answers with the description of the HTTP face, whose server is the one
// that is asked.
func openAPI(issuer string) http.Handler {
	doc := page{rendered: newRendered(describing(openapi.Document, issuer)), maxAge: openAPIMaxAge}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if readable(w, r) {
			doc.serve(w, r)
		}
	})
}

// describing puts the URL of the service into its description.
func describing(document []byte, issuer string) []byte {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(document, &members); err != nil {
		panic(err) // it is part of the program
	}
	servers, err := json.Marshal([]map[string]string{{"url": issuer}})
	if err != nil {
		panic(err) // strings always encode
	}
	members["servers"] = servers
	out, err := json.Marshal(members)
	if err != nil {
		panic(err) // it was decoded from JSON
	}
	return out
}
