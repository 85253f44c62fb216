// Records what Alertmanager's parser of matchers makes of texts: one JSON string a line in, one JSON object a line out.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/prometheus/alertmanager/matcher/parse"
	"github.com/prometheus/common/model"
)

type input struct {
	Text   string            `json:"text"`
	Labels map[string]string `json:"labels"`
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<20)
	for in.Scan() {
		var asked input
		if err := json.Unmarshal(in.Bytes(), &asked); err != nil {
			panic(err)
		}
		var found any
		var matches any
		if matchers, err := parse.Matchers(asked.Text); err == nil {
			all := [][]string{}
			for _, one := range matchers {
				all = append(all, []string{one.Name, one.Type.String(), one.Value})
			}
			set := model.LabelSet{}
			for name, value := range asked.Labels {
				set[model.LabelName(name)] = model.LabelValue(value)
			}
			found, matches = all, matchers.Matches(set)
		}
		out, _ := json.Marshal(map[string]any{"text": asked.Text, "labels": asked.Labels, "matchers": found, "matches": matches})
		fmt.Println(string(out))
	}
}
